"""How many rounds the Feistel network of `rsssl.rng.Order` needs: five tests that a random permutation passes.

The halves of a small domain are small, and what a round hides badly shows there first: so the tests run on domains far
below the 2**30 of a billion tiles. Each test gives p-values; the smallest counts, times how many there are
(Bonferroni). A fair shuffle gives less than 0.001 once in a thousand rows; numpy's own stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from rsssl.rng import feistel, fold, hash64_numpy

ROUNDS = (1, 2, 3, 4, 5, 6, 8, 10)
Permutation = Callable[[int, int, np.ndarray], np.ndarray]  # (key, bits, positions) to ids, both uint64


def cipher(rounds: int) -> Permutation:
    def permute(key: int, bits: int, x: np.ndarray) -> np.ndarray:
        return feistel(x, bits, [np.uint64(fold(key, "round", i)) for i in range(rounds)])

    return permute


def shuffled(key: int, bits: int, x: np.ndarray) -> np.ndarray:
    """numpy's own permutation: the reference."""
    return np.random.default_rng(key).permutation(1 << bits).astype(np.uint64)[x.astype(np.int64)]


def uniform(values: np.ndarray, cells: int) -> float:
    """p-value of a chi-square test that integers 0 to cells - 1 are equally frequent."""
    return float(stats.chisquare(np.bincount(values.astype(np.int64), minlength=cells)).pvalue)


def displacement(permute: Permutation, key: int) -> Iterator[float]:
    """Where an id lands, seen from its position: (id - position) mod n in 64 bins, n = 2**20."""
    x = np.arange(1 << 20, dtype=np.uint64)
    moved = (permute(key, 20, x) - x) & np.uint64((1 << 20) - 1)
    yield uniform(moved >> np.uint64(14), 64)
    yield uniform(moved & np.uint64(63), 64)


def neighbours(permute: Permutation, key: int) -> Iterator[float]:
    """Ids of positions 2**k apart: their difference mod n in 64 bins, and their correlation, n = 2**20."""
    ids = permute(key, 20, np.arange(1 << 20, dtype=np.uint64))
    for k in range(20):
        lag = 1 << k
        difference = (ids[lag:] - ids[:-lag]) & np.uint64((1 << 20) - 1)
        yield uniform(difference >> np.uint64(14), 64)
        yield uniform(difference & np.uint64(63), 64)
        r = np.corrcoef(ids[lag:].astype(float), ids[:-lag].astype(float))[0, 1]
        yield float(2 * stats.norm.sf(abs(r) * np.sqrt(len(difference))))


def blocks(permute: Permutation, key: int) -> Iterator[float]:
    """A batch of 256 is a fair sample: its ids over 16 ranges and 16 remainders, chi-squares of all batches summed."""
    n, size, cells = 1 << 20, 256, 16
    ids = permute(key, 20, np.arange(n, dtype=np.uint64)).reshape(-1, size)
    for cell in (ids >> np.uint64(16), ids & np.uint64(15)):
        flat = (np.arange(len(ids))[:, None] * cells + cell.astype(np.int64)).ravel()
        counts = np.bincount(flat, minlength=len(ids) * cells).reshape(-1, cells)
        chi = ((counts - size / cells) ** 2).sum(1) / (size / cells)
        # drawn without putting back, the statistic is (n - size) / (n - 1) of the chi-square distribution's
        chi *= (n - 1) / (n - size)
        z = (chi.mean() - (cells - 1)) / (np.sqrt(2 * (cells - 1) * (1 - 1 / size)) / np.sqrt(len(chi)))
        yield float(2 * stats.norm.sf(abs(z)))


def avalanche(permute: Permutation, key: int) -> Iterator[float]:
    """Flipping a bit of the position flips each bit of the id half of the time, n = 2**20: farthest of 400 pairs."""
    x = np.arange(1 << 20, dtype=np.uint64)
    ids, worst, pairs = permute(key, 20, x), 0.0, (1 << 20) // 2
    for i in range(20):
        flipped = ids ^ ids[(x ^ np.uint64(1 << i)).astype(np.int64)]
        for j in range(20):
            share = float(((flipped >> np.uint64(j)) & np.uint64(1)).mean())
            worst = max(worst, abs(share - 0.5) * 2 * np.sqrt(pairs))
    yield min(1.0, float(400 * 2 * stats.norm.sf(worst)))


def _keys(key: int, rounds: int, n: int) -> list[np.ndarray]:
    """Round keys of n networks at once, (n, 1) uint64 a round."""
    return [hash64_numpy(fold(key, "many", i), np.arange(n))[:, None] for i in range(rounds)]


def pairs(rounds: int, key: int, networks: int) -> Iterator[float]:
    """Two positions of a domain of 64, under many keys: their two ids take all 4,032 values equally often."""
    places = np.array([0, 1, 8, 9, 63], dtype=np.uint64)
    if rounds:
        ids = feistel(np.tile(places, (networks, 1)), 6, _keys(key, rounds, networks))
    else:
        generator = np.random.default_rng(key)
        ids = np.argsort(generator.random((networks, 64)), axis=1)[:, places.astype(np.int64)].astype(np.uint64)
    for a in range(len(places)):
        for b in range(a):
            first, second = ids[:, a].astype(np.int64), ids[:, b].astype(np.int64)
            yield uniform(first * 63 + second - (second > first), 64 * 63)


def measure(quick: bool, advance: Callable[[float, str], None]) -> dict[str, dict[str, float]]:
    """Smallest p-value of each test by rounds ("reference": numpy), times their number (Bonferroni), at most 1."""
    seeds, networks = (1, 20_000) if quick else (4, 400_000)
    found: dict[str, dict[str, float]] = {}
    wanted = (0, *(ROUNDS[::3] if quick else ROUNDS))  # 0: the reference
    for rounds in wanted:
        row = {}
        for test in (displacement, neighbours, blocks, avalanche):
            permute = cipher(rounds) if rounds else shuffled
            p = [value for seed in range(seeds) for value in test(permute, fold("rounds", seed))]
            row[test.__name__] = min(1.0, min(p) * len(p))
        p = list(pairs(rounds, fold("rounds", "pairs"), networks))
        row["pairs"] = min(1.0, min(p) * len(p))
        found[str(rounds) if rounds else "reference"] = row
        advance(1 / len(wanted), f"rounds: {rounds}")
    return found


if __name__ == "__main__":
    for name, row in measure(False, lambda share, text: None).items():
        print(name, {k: f"{v:.2g}" for k, v in row.items()})
