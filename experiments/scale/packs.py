"""A billion tiles as 1,000 packs: what opening and reading them costs.

The pixels are holes in sparse files, the rest is real.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from opened import memory_mb

from rsssl.augment import BandGain, Colour, RandomAreaCrop, Symmetry, Views
from rsssl.data.hashed_split import hashed_split
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.packs import Packs, join
from rsssl.data.pool import Pool, Source
from rsssl.data.rows import Marked
from rsssl.data.write_pack import Content, write_pack
from rsssl.models.bands import COLOURS
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import Order

HERE = Path(__file__).resolve().parent
SIDE, BANDS = 64, 3
TILE = SIDE * SIDE * BANDS  # bytes: 12,288
BATCH = 256  # a rank's share of 16,384
NOT_TAKEN = "0" * 64  # in place of the checksum of a hole
NAME = "S2B_MSIL2A_20260714T101559_R065_T33UUP/tile_{:07d}.tif"


def make_pack(folder: Path, tiles: int, classes: int = 0) -> None:
    """A whole pack, as rsssl.data.write_pack writes it; the pixels are a hole of the right length.

    Args:
        folder: for it.
        tiles: how many.
        classes: of the labels; 0 for none.
    """
    folder.mkdir(parents=True)
    third, random = (1 / 3,) * BANDS, np.random.default_rng(0)
    numbers = (0.0,) * BANDS, (255.0,) * BANDS, None, third, third
    card = SensorCard("scale", COLOURS, "uint8", *numbers, tuple(map(str, range(classes))), (SIDE, SIDE))
    moments = random.random((tiles, BANDS, 3))
    moments.tofile(folder / "moments.part")
    make_hole(folder / "images.part", tiles)
    names = [NAME.format(i) for i in range(tiles)]
    labels = random.integers(0, classes, tiles) if classes else np.full(tiles, -1)
    files = folder / "images.part", NOT_TAKEN, folder / "moments.part"
    about = {"sums": moments.sum(0).tolist(), "source": NOT_TAKEN, "root": "tiles", "done": {}}
    write_pack(folder, card, Content(*files, names, labels, None, {}), about)


def make_hole(file: Path, tiles: int) -> None:
    with open(file, "wb") as hole:
        hole.truncate(tiles * TILE)


def make_packs(folder: Path, shards: int, tiles: int, classes: int = 0) -> Packs:
    """So many packs as one dataset; but for the pixels, their files are links to those of the first."""
    first = folder / "part-00000"
    make_pack(first, tiles, classes)
    for i in range(1, shards):
        other = folder / f"part-{i:05d}"
        other.mkdir()
        make_hole(other / "images.bin", tiles)
        for file in first.iterdir():
            if file.name != "images.bin":
                os.link(file, other / file.name)
    return join(folder, NOT_TAKEN, "tiles")


def seconds(call: Callable[[], Any], times: int) -> float:
    return statistics.median(timed(call) for _ in range(times))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def loader(pool: Pool) -> PoolBatches:
    """With the default augmentation (conf/augment/rs.yaml), two views of 64 pixels."""
    views = Views(
        operations={
            "crop": RandomAreaCrop(area=(0.1, 0.6), aspect=(0.75, 1.3333)),
            "flip": Symmetry(),
            "colour": Colour(brightness=0.4, contrast=0.4, saturation=0.4, p=0.8),
            "gain": BandGain(gain=0.1, offset=0.04, p=0.8),
        }
    )
    preprocess = Preprocess(pool.sources[0].pack.card, SIDE, (0.5,) * 3, (0.25,) * 3)
    return PoolBatches(pool, views, 2, preprocess, Sampling(BATCH, 1, 0, "scale"))


def draws(n: int) -> Iterator[np.ndarray]:
    """Batches of a random order of n tiles, for ever."""
    order = Order(1, n)
    while True:
        for start in range(0, n - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def measure(quick: bool, folder: Path, advance: Callable[[float, str], None]) -> dict[str, Any]:
    shards, tiles = (20, 2_000) if quick else (1_000, 1_000_000)
    whole, labelled = folder / "whole", folder / "labelled"
    start = time.perf_counter()
    packs = make_packs(whole, shards, tiles)
    first = whole / "part-00000"
    found: dict[str, Any] = {
        "shards": shards,
        "tiles_per_shard": tiles,
        "making_seconds": time.perf_counter() - start,
        "path_characters": len(NAME.format(0)),
        "card_bytes": (first / "card.json").stat().st_size,
        "parts_bytes": (whole / "parts.json").stat().st_size,
        "file_bytes": {f.name: f.stat().st_size for f in first.iterdir() if f.name not in ("images.bin", "card.json")},
        "logical_TB": len(packs) * TILE / 1e12,
        "on_disk_MB": sum(f.stat().st_blocks for f in whole.glob("part-*/images.bin")) * 512 / 1e6,
    }
    advance(0.3, f"packs: {shards} sparse files")
    found["opened"] = opened(whole, 1 if quick else 3)
    advance(0.1, "packs: opened")
    found["gather"] = {}
    handles = len(os.listdir("/proc/self/fd"))
    one = Pack.open(first)
    for name, source in (("one_pack", Source(one, range(tiles))), ("all_packs", Source(packs, range(len(packs))))):
        found["gather"][name] = gathered(Pool([source]), tiles, 5 if quick else 200)
        advance(0.1, f"packs: batches of {name}")
    found["file_handles"] = len(os.listdir("/proc/self/fd")) - handles
    found["divided"] = divided(labelled, 4 if quick else 100, tiles)
    advance(0.4, "packs: divided")
    return found


def opened(folder: Path, times: int) -> dict[str, float]:
    """Medians of what `opened.py` says."""
    command = [sys.executable, str(HERE / "opened.py"), str(folder)]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for _ in range(times)
    ]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def gathered(pool: Pool, tiles: int, repeats: int) -> dict[str, float]:
    """Batches of a random order: how many packs each is from, and ms to read it, and to make its views as well.

    The quickest of many is what the software takes where other work wants the same cores.
    """
    drawn, batches = draws(len(pool)), loader(pool)
    sources = statistics.mean(len(np.unique(next(drawn) // tiles)) for _ in range(10))

    def views() -> None:
        ids = next(drawn)
        batches._batch(0, ids, batches._gather(0, ids), SIDE)

    views()  # compiled now
    both = seconds(views, repeats // 4 + 1)
    read = [timed(lambda: pool.gather(next(drawn))) for _ in range(repeats)]
    quickest, middle = 1e3 * min(read), 1e3 * statistics.median(read)
    return {"sources": sources, "quickest_ms": quickest, "gather_ms": middle, "gather_and_views_ms": 1e3 * both}


def divided(folder: Path, shards: int, tiles: int) -> dict[str, float]:
    """What a test set of labelled images costs: once, when its bitmap is made, and at each opening after that."""
    packs, start = make_packs(folder, shards, tiles, classes=10), time.perf_counter()
    division = hashed_split(packs, 0, 0.2)
    once = time.perf_counter() - start
    return {"tiles": len(packs), "once_seconds": once, "test": len(division.test)} | opened(folder, 1) | billion()


def billion() -> dict[str, float]:
    """A pool of half a billion tiles that a bitmap marks: MB beside the bitmap, and ms to find the rows of a batch."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 256, 125_000_000 // 64 * 64, np.uint8)
    before = memory_mb()
    pool = Marked(bits, 8 * len(bits), False)
    after, drawn = memory_mb(), draws(len(pool))
    return {"billion_MB": after - before, "billion_ms": 1e3 * seconds(lambda: pool[next(drawn)], 40)}
