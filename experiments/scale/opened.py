"""What a training does with a pack before its first batch: seconds and MB. `opened.py FOLDER` is a process apart."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from rsssl.data.pack import Pack
from rsssl.data.split import split


def memory_mb() -> float:
    """Of this process, resident, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def opening(folder: str) -> dict[str, float]:
    before, start = memory_mb(), time.perf_counter()
    pack = Pack.open(folder)
    opened, seconds = memory_mb(), time.perf_counter() - start
    start = time.perf_counter()
    division = split(pack.paths, pack.labels, 0, 0.2)
    return {
        "open_seconds": seconds,
        "open_MB": opened - before,
        "split_seconds": time.perf_counter() - start,
        "indices_MB": division.pool.nbytes / 1e6,
        "moments_MB": pack.moments.nbytes / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(opening(sys.argv[1])))
