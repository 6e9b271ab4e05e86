"""What a training does with its packs before the first batch: seconds and MB. `opened.py FOLDER` is a process apart."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from rsssl.data.hashed_split import hashed_split
from rsssl.data.packs import open_packed
from rsssl.data.pool import Pool, Source


def memory_mb() -> float:
    """Of this process alone, resident, in MB: pages of files, which all processes share, are left out."""
    size, shared = (int(v) for v in Path("/proc/self/statm").read_text().split()[1:3])
    return (size - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


def opening(folder: str) -> dict[str, float]:
    before, start = memory_mb(), time.perf_counter()
    packs = open_packed(folder)
    listed = time.perf_counter() - start
    for part in packs.parts:
        len(part)
    opened, seconds = memory_mb(), time.perf_counter() - start
    start = time.perf_counter()
    pool = Pool([Source(packs, hashed_split(packs, 0, 0.2).pool)])
    divided = time.perf_counter() - start
    pool.rows[0][np.arange(0, len(pool), len(pool) // 1000)]
    return {
        "listed_seconds": listed,
        "open_seconds": seconds,
        "open_MB": opened - before,
        "split_seconds": divided,
        "pool": len(pool),
        "pool_MB": memory_mb() - opened,
    }


if __name__ == "__main__":
    print(json.dumps(opening(sys.argv[1])))
