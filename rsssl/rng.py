"""Counter-based random numbers: a draw is a pure function of (key, id, index), never of what was drawn before.

    key = fold(seed, epoch, "crop")          # 64-bit, from integers and strings
    u = uniform(key, ids, 4)                 # (B, 4) float32 in [0, 1), row i depends on ids[i] only
    ids = Order(key, n)[a:b]                 # (b - a,) int64, a slice of a random permutation of range(n)

The same numbers come out on any device, for any batch, rank or order, with torch or numpy. The mixing function is the
finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied to
the id and then to a SplitMix64 stream that starts there.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import; the splits need numpy only
    from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL1 = 0xBF58476D1CE4E5B9
_MUL2 = 0x94D049BB133111EB

SORTED = 1 << 24  # up to so many ids, an `Order` is the sorted permutation, which is kept in memory: 128 MB
ROUNDS = 8  # of the cipher for more ids; experiments/scale shows how many are needed
_BLOCK = 1 << 14  # ids at a time, so that the temporary arrays stay in the cache


@lru_cache(1024, typed=True)  # an epoch's keys are asked for again with every batch
def fold(*parts: int | str) -> int:
    """A 64-bit key from integers and strings: the first 8 bytes of a SHA-256, so the same in all versions.

    Parts differ by type and place: ``fold(1, 23) != fold(12, 3)``, ``fold("1") != fold(1)``.

    Args:
        parts: integers of any size, and strings.

    Returns:
        An integer in [0, 2**64).
    """
    encoded = bytearray()
    for part in parts:
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        raw = text.encode()
        encoded += len(raw).to_bytes(4, "little") + raw
    return int.from_bytes(hashlib.sha256(bytes(encoded)).digest()[:8], "little")


def hash64(key: int, ids: Tensor) -> Tensor:
    """A hash of each id.

    Args:
        key: see `fold`.
        ids: int64 of any shape.

    Returns:
        int64 of that shape: the bits of unsigned 64-bit integers.
    """
    return _mix(_mix(ids * _signed(_GOLDEN) + _signed(key)) ^ _signed(key))


def hash64_numpy(key: int, ids: np.ndarray) -> np.ndarray:
    """`hash64` without torch, bit for bit the same.

    Args:
        key: see `fold`.
        ids: integers of any shape.

    Returns:
        uint64 of that shape.
    """
    k = np.uint64(key & _MASK)
    # arrays of at least one dimension wrap silently; numpy warns only about scalars
    counter = np.atleast_1d(np.asarray(ids)).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN) + k
    return _mix_numpy(_mix_numpy(counter) ^ k).reshape(np.shape(ids))


def uniform_numpy(key: int, ids: np.ndarray, n: int) -> np.ndarray:
    """`uniform` without torch, bit for bit the same, and several times faster for a batch.

    Args:
        key: see `fold`.
        ids: (B,) integers.
        n: numbers for each id.

    Returns:
        (B, n) float32 in [0, 1), multiples of 2**-24.
    """
    steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix_numpy(hash64_numpy(key, ids)[:, None] + steps) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2.0**-24)


def uniform(key: int, ids: Tensor, n: int) -> Tensor:
    """Random numbers for each id.

    The first m columns do not depend on n, and a row does not depend on the other ids.

    Args:
        key: see `fold`.
        ids: (B,) int64.
        n: numbers for each id.

    Returns:
        (B, n) float32 in [0, 1), multiples of 2**-24.
    """
    import torch

    if ids.device.type == "cpu":  # a batch's worth costs less with numpy
        return torch.from_numpy(uniform_numpy(key, ids.numpy(), n))
    return _uniform_anywhere(key, ids, n)


def _uniform_anywhere(key: int, ids: Tensor, n: int) -> Tensor:
    import torch

    steps = torch.arange(1, n + 1, device=ids.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _mix(hash64(key, ids.to(torch.int64))[:, None] + steps)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def permutation(key: int, n: int) -> np.ndarray:
    """A random permutation of range(n), by sorting hashes, so that it is the same with every version of numpy.

    Args:
        key: see `fold`.
        n: numbers to permute.

    Returns:
        (n,) int64.
    """
    return np.argsort(hash64_numpy(key, np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64)


class Order:
    """A random permutation of range(n) of which any slice can be computed without the rest::

        order = Order(fold(seed, "order", epoch), 1_000_000_000)
        ids = order[a:b]                     # (b - a,) int64; order[a:b:step] works too, as for a list

    Up to n = SORTED it is `permutation(key, n)`, computed once and kept. For larger n a position is enciphered to its
    id by a Feistel network with round keys from `key` (Luby and Rackoff, "How to construct pseudorandom permutations
    from pseudorandom functions", SIAM J. Comput. 17(2), 1988) over the next power of two, whose two halves may differ
    by a bit and take turns. A result outside range(n) is enciphered again until it falls inside ("cycle walking": Black
    and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), fewer than two times on average. Both are one to
    one for any round function; ours is the finaliser of SplitMix64. Time and memory are proportional to the number of
    ids asked for; nothing is computed ahead.

    It is for shuffling, not for secrets.

    Args:
        key: see `fold`.
        n: numbers to permute.
    """

    def __init__(self, key: int, n: int) -> None:
        if n < 0:
            raise ValueError(f"a permutation of {n} numbers: n must not be negative")
        self.key, self.n = key, n
        self._sorted = permutation(key, n) if n <= SORTED else None
        self._bits = max(1, (n - 1).bit_length())  # the domain, 2**bits, is smaller than 2 * n
        self._round_keys = [np.uint64(fold(key, "round", i)) for i in range(ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: slice) -> np.ndarray:
        """The ids at these positions, (m,) int64; positions beyond the end are left out, as in a list."""
        if not isinstance(part, slice):
            raise TypeError(f"an Order gives slices, order[a:b], not order[{part!r}]")
        if self._sorted is not None:
            return self._sorted[part].copy()  # the caller may change the result
        positions = range(self.n)[part]
        ids = np.empty(len(positions), np.int64)
        for i in range(0, len(ids), _BLOCK):
            block = positions[i : i + _BLOCK]
            numbers = np.arange(block.start, block.stop, block.step, dtype=np.int64)
            ids[i : i + _BLOCK] = self._walk(numbers.view(np.uint64))
        return ids

    def _walk(self, x: np.ndarray) -> np.ndarray:
        """The ids, (m,) int64, at positions x, (m,) uint64 below n."""
        x = feistel(x, self._bits, self._round_keys)
        outside = np.flatnonzero(x >= self.n)
        while len(outside):
            again = feistel(x[outside], self._bits, self._round_keys)
            x[outside] = again
            outside = outside[again >= self.n]
        return x.view(np.int64)


def feistel(x: np.ndarray, bits: int, keys: Iterable[np.ndarray | np.uint64]) -> np.ndarray:
    """A one-to-one map of range(2**bits) to itself.

    In each round one half of the bits is combined with a hash of the other half.

    Args:
        x: uint64 of any shape of at least one dimension.
        bits: from 1 to 63.
        keys: one for each round, uint64 or arrays of them that broadcast with x.

    Returns:
        uint64 of x's shape.
    """
    width = bits // 2, bits - bits // 2  # of the two halves
    shift, mask = np.uint64(width[1]), [np.uint64((1 << w) - 1) for w in width]
    halves = [x >> shift, x & mask[1]]
    for i, key in enumerate(keys):
        a, b = i % 2, 1 - i % 2
        halves[a] = halves[a] ^ (_mix_numpy(halves[b] * np.uint64(_GOLDEN) + key) & mask[a])
    return halves[0] << shift | halves[1]


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_MUL1)
    z = (z ^ _shift(z, 27)) * _signed(_MUL2)
    return z ^ _shift(z, 31)


def _mix_numpy(z: np.ndarray) -> np.ndarray:
    z = z ^ (z >> np.uint64(30))  # the only new array but the shifted ones
    z *= np.uint64(_MUL1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MUL2)
    z ^= z >> np.uint64(31)
    return z


def _shift(z: Tensor, bits: int) -> Tensor:
    # torch has no unsigned shift: shift with the sign, then clear the copies of the sign bit
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (value + (1 << 63) & _MASK) - (1 << 63)
