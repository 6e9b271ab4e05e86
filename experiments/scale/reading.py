"""Scattered tiles from a disk, one read after the other (before) and several in flight (now); a batch from 226 packs.

    OMP_NUM_THREADS=1 python experiments/scale/reading.py [--folder DIR] [--quick]

DIR holds 1.2 GB while it runs; all of it is removed. It prints the tables of README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from packs import BATCH, SIDE, TILE

from rsssl.data import reads
from rsssl.data.packs import Packs, join
from rsssl.data.write_pack import Content, write_pack
from rsssl.models.card import SensorCard
from rsssl.rng import Order, permutation

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


def rates(path: Path, tiles: int, batches: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Tiles a second, cold and warm, of each way of reading: medians; the ways take turns."""
    ways = {"one after the other": one_by_one} | {f"{n} threads": in_flight(n) for n in THREADS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    file = os.open(path, os.O_RDONLY)
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
    return {name: tuple(map(statistics.median, zip(*runs, strict=True))) for name, runs in taken.items()}  # type: ignore[misc]


def many_packs(folder: Path, parts: int, tiles: int) -> Packs:
    """One dataset of so many packs of so many tiles; the pixels are holes, all else are links to the first one's."""
    first, half = folder / "part-00000", (0.5,) * 3
    first.mkdir(parents=True)
    with open(first / "images.part", "wb") as file:
        file.truncate(tiles * TILE)
    np.ones((tiles, 3, 3)).tofile(first / "moments.part")
    names, labels = [f"tile_{i:07d}.tif" for i in range(tiles)], np.full(tiles, -1)
    content = Content(first / "images.part", "0" * 64, first / "moments.part", names, labels, None, {})
    numbers = (0.0,) * 3, (255.0,) * 3, None, half, half
    card = SensorCard("scale", ("red", "green", "blue"), "uint8", *numbers, (), (SIDE, SIDE))
    write_pack(first, card, content, {"sums": [[tiles] * 3] * 3, "source": "s", "root": "/r", "done": {}})
    for k in range(1, parts):
        other = folder / f"part-{k:05d}"
        other.mkdir()
        for path in first.iterdir():
            if path.name != "images.bin":
                os.link(path, other / path.name)
        with open(other / "images.bin", "wb") as file:
            file.truncate(tiles * TILE)
    return join(folder, "s", "/r")


def gathered(packs: Packs, batches: int) -> tuple[float, float, int]:
    """Milliseconds of a batch of 256 of all packs, how many of them it has tiles of, and file handles."""
    order, before = Order(1, len(packs)), len(os.listdir("/proc/self/fd"))
    taken, sources = [], []
    for k in range(batches):
        rows = order[k * BATCH : (k + 1) * BATCH]
        start = time.perf_counter()
        packs.read(rows)
        taken.append(time.perf_counter() - start)
        sources.append(len(np.unique(packs.part_of(rows))))
    return (
        1e3 * statistics.median(taken[batches // 2 :]),
        statistics.mean(sources),
        len(os.listdir("/proc/self/fd")) - before,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are made")
    parser.add_argument("--quick", action="store_true", help="a smoke test: numbers that mean nothing")
    options = parser.parse_args()
    tiles, batches, repeats = (3_000, 3, 1) if options.quick else (100_000, 40, 5)
    with tempfile.TemporaryDirectory(prefix="rsssl-reading-", dir=options.folder) as folder:
        path, block = Path(folder) / "tiles.bin", np.random.default_rng(0).integers(0, 256, 1000 * TILE, np.uint8)
        with open(path, "wb") as file:
            for i in range(0, tiles, 1000):
                file.write((block ^ np.uint8(i // 1000 % 256)).data)
            file.flush()
            os.fsync(file.fileno())
        print("| tiles/s | cold | warm |\n| --- | --- | --- |")
        for name, (cold, warm) in rates(path, tiles, batches, repeats).items():
            print(f"| {name} | {cold:,.0f} | {warm:,.0f} |")
        packs = many_packs(Path(folder) / "packs", 20 if options.quick else 1000, 1000)
        for threads in (1, 8):
            in_flight(threads)(os.open(path, os.O_RDONLY), np.arange(2), np.empty((2, TILE), np.uint8))
            ms, sources, handles = gathered(packs, 10 if options.quick else 200)
            print(f"a batch of 256 from {sources:.0f} packs, {threads} threads: {ms:.2f} ms, {handles} file handles")


if __name__ == "__main__":
    main()
