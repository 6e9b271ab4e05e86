"""Counter-based random numbers: a draw is a pure function of (key, id, index), never of what was drawn before.

    key = fold(seed, epoch, "crop")          # 64-bit, from integers and strings
    u = uniform(key, ids, 4)                 # (B, 4) float32 in [0, 1), row i depends on ids[i] only

The same numbers come out on any device, for any batch, rank or order, with torch or numpy. The mixing function is the
finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied to
the id and then to a SplitMix64 stream that starts there.
"""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import; the splits need numpy only
    from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL1 = 0xBF58476D1CE4E5B9
_MUL2 = 0x94D049BB133111EB


def fold(*parts: int | str) -> int:
    """A 64-bit key in [0, 2**64) from integers and strings: the first 8 bytes of a SHA-256, so stable for ever.

    Parts are told apart by type and place: ``fold(1, 23) != fold(12, 3)``, ``fold("1") != fold(1)``.
    """
    encoded = bytearray()
    for part in parts:
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        raw = text.encode()
        encoded += len(raw).to_bytes(4, "little") + raw
    return int.from_bytes(hashlib.sha256(bytes(encoded)).digest()[:8], "little")


def hash64(key: int, ids: Tensor) -> Tensor:
    """Hash ids, int64 of any shape, to int64 of that shape (the bits of an unsigned 64-bit integer)."""
    return _mix(_mix(ids * _signed(_GOLDEN) + _signed(key)) ^ _signed(key))


def hash64_numpy(key: int, ids: np.ndarray) -> np.ndarray:
    """`hash64` without torch: (N,) integers to (N,) uint64, bit for bit the same."""
    k = np.uint64(key & _MASK)
    # arrays of at least one dimension wrap silently; numpy warns only about scalars
    counter = np.atleast_1d(np.asarray(ids)).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN) + k
    return _mix_numpy(_mix_numpy(counter) ^ k).reshape(np.shape(ids))


def uniform(key: int, ids: Tensor, n: int) -> Tensor:
    """Draw n numbers for each id: ids (B,) int64 -> (B, n) float32 in [0, 1), multiples of 2**-24.

    The first m columns do not depend on n, and a row does not depend on the other ids.
    """
    import torch

    steps = torch.arange(1, n + 1, device=ids.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _mix(hash64(key, ids.to(torch.int64))[:, None] + steps)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def permutation(key: int, n: int) -> np.ndarray:
    """A permutation of range(n), (n,) int64, by sorting hashes: the same with every version of numpy."""
    return np.argsort(hash64_numpy(key, np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_MUL1)
    z = (z ^ _shift(z, 27)) * _signed(_MUL2)
    return z ^ _shift(z, 31)


def _mix_numpy(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MUL1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MUL2)
    return z ^ (z >> np.uint64(31))


def _shift(z: Tensor, bits: int) -> Tensor:
    # torch has no unsigned shift: shift with the sign, then clear the copies of it
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 that has the same 64 bits."""
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value
