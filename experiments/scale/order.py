"""One epoch's order of a billion tiles: simulated whole, resumed in the middle, shared among 1, 8 and 64 ranks."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from rsssl.rng import Order, fold, permutation

TILES, QUICK = 1_000_000_000, 30_000_000
RANKS = 64
BATCH = 16_384  # images a step, over all ranks
KEY = fold("scale", 0, "order", 0)


@numba.njit
def mark(seen: np.ndarray, ids: np.ndarray) -> int:
    """Sets the bits of `ids` in `seen`, (n / 8,) uint8; how many were set before."""
    twice = 0
    for i in ids:
        bit = np.uint8(1 << (i & 7))
        if seen[i >> 3] & bit:
            twice += 1
        seen[i >> 3] |= bit
    return twice


def part(order: Order, step: int, batch: int, rank: int, ranks: int) -> np.ndarray:
    """What a rank trains on at a step: the rank's consecutive part of that global batch."""
    each = batch // ranks
    start = step * batch + rank * each
    return order[start : start + each]


def median_us(call: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken)


def measure(quick: bool, advance: Callable[[float, str], None]) -> dict[str, Any]:
    """Raises AssertionError when an id is missing or comes twice, or when a resumed or a shared order differs."""
    n = QUICK if quick else TILES
    order, steps, batches = Order(KEY, n), n // BATCH, 64
    seen, taken, marked = np.zeros(-(-n // 8), np.uint8), 0.0, 0
    chosen = {int(s): b"" for s in np.linspace(0, steps - 1, 20)}  # steps looked at again below
    mark(seen[:1], np.zeros(0, np.int64))  # compiled now
    for a in range(0, n, BATCH * batches):
        start = time.perf_counter()
        ids = order[a : a + BATCH * batches]
        taken += time.perf_counter() - start
        marked += len(ids)
        assert ids.min() >= 0 and ids.max() < n, "an id is no tile"
        assert mark(seen, ids) == 0, "an id came twice"
        for step in (s for s in chosen if a <= s * BATCH < a + BATCH * batches):
            chosen[step] = ids[step * BATCH - a :][:BATCH].tobytes()
        advance(0.8 * len(ids) / n, f"order: {marked:,} ids")
    assert marked == n == int(np.bitwise_count(seen).sum(dtype=np.int64)), "an id is missing"

    found: dict[str, Any] = {
        "tiles": n,
        "ranks": RANKS,
        "batch": BATCH,
        "steps": steps,
        "left_out": n - steps * BATCH,
        "epoch_seconds": taken,
        "ns_per_id": 1e9 * taken / n,
    }
    for step, expected in chosen.items():
        assert Order(KEY, n)[step * BATCH : (step + 1) * BATCH].tobytes() == expected, "a resumed order differs"
        for ranks in (1, 8, RANKS):
            parts = [part(Order(KEY, n), step, BATCH, rank, ranks) for rank in range(ranks)]
            assert np.concatenate(parts).tobytes() == expected, f"the order of {ranks} ranks differs"
    found["checked_steps"] = len(chosen)
    found["resume_us"] = {
        name: median_us(lambda s=step: part(Order(KEY, n), s, BATCH, 5, RANKS), 300)
        for name, step in (("start", 0), ("middle", steps // 2), ("end", steps - 1))
    }
    steps_of_rank = iter(range(10**9))
    found["rank_step_us"] = median_us(lambda: part(order, next(steps_of_rank), BATCH, 5, RANKS), 2000)
    found["batch_us"] = median_us(lambda: order[: 1 << 14], 300)
    found["rank_step_peak_bytes"] = peak(lambda: part(order, 7, BATCH, 5, RANKS))
    found["batch_peak_bytes"] = peak(lambda: order[:BATCH])
    advance(0.1, "order: beside a sorted permutation")

    small = 1 << (20 if quick else 24)
    start = time.perf_counter()
    permutation(KEY, small)
    seconds = time.perf_counter() - start
    sort = {"tiles": small, "seconds": seconds, "bytes_per_id": peak(lambda: permutation(KEY, small)) / small}
    growth = TILES * np.log2(TILES) / (small * np.log2(small))  # of a sort, n log n
    found["sorted"] = sort
    found["sorted_at_a_billion"] = {"seconds": float(seconds * growth), "peak_GB": sort["bytes_per_id"], "kept_GB": 8.0}
    advance(0.1, "order: done")
    return found


def peak(call: Callable[[], Any]) -> int:
    """Bytes that numpy had at most, beyond what it had before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
