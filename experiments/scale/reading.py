"""Scattered tiles from a disk: one read after the other, as before, and several in flight."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from packs import BATCH, TILE

from rsssl.data import reads
from rsssl.rng import permutation

THREADS = (1, 2, 4, 8, 16, 32)


def one_by_one(file: int, rows: np.ndarray, out: np.ndarray) -> None:
    """As `Pack.read` did."""
    for i in np.argsort(rows, kind="stable").tolist():
        assert os.preadv(file, [out[i].data], int(rows[i]) * TILE) == TILE


def in_flight(threads: int) -> Callable[[int, np.ndarray, np.ndarray], None]:
    def read(file: int, rows: np.ndarray, out: np.ndarray) -> None:
        if threads != reads.THREADS:
            reads.THREADS = threads
            reads._threads.cache_clear()
        reads.read_rows(file, rows, TILE, out)

    return read


def rates(path: Path, tiles: int, batches: int, repeats: int) -> dict[str, dict[str, float]]:
    """Tiles a second, cold and warm, of each way of reading: medians; the ways take turns."""
    ways = {"one after the other": one_by_one} | {f"{n} in flight": in_flight(n) for n in THREADS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    file, usual = os.open(path, os.O_RDONLY), reads.THREADS
    for repeat in range(repeats):
        drawn = permutation(repeat, tiles)[: batches * BATCH].reshape(batches, BATCH)
        for name, read in ways.items():
            read(file, drawn[0], np.empty((BATCH, TILE), np.uint8))  # compiled now
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # forgotten here; what lies below may not forget
            both = []
            for _ in range(2):
                start = time.perf_counter()
                for rows in drawn:
                    read(file, rows, np.empty((BATCH, TILE), np.uint8))
                both.append(drawn.size / (time.perf_counter() - start))
            taken[name].append((both[0], both[1]))
    os.close(file)
    reads.THREADS = usual
    return {
        name: {"cold": statistics.median(c for c, _ in runs), "warm": statistics.median(w for _, w in runs)}
        for name, runs in taken.items()
    }


def measure(quick: bool, folder: Path, advance: Callable[[float, str], None]) -> dict[str, Any]:
    tiles, batches, repeats = (3_000, 3, 1) if quick else (100_000, 40, 5)
    path, block = folder / "tiles.bin", np.random.default_rng(0).integers(0, 256, 1000 * TILE, np.uint8)
    with open(path, "wb") as file:
        for i in range(0, tiles, 1000):
            file.write((block ^ np.uint8(i // 1000 % 256)).data)
        file.flush()
        os.fsync(file.fileno())
    advance(0.3, "reading: a file of tiles")
    found = {"GB": tiles * TILE / 1e9, "tiles_per_second": rates(path, tiles, batches, repeats)}
    path.unlink()
    advance(0.7, "reading: done")
    return found
