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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.augment import BandGain, Colour, RandomAreaCrop, Symmetry, Views
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import Order

HERE = Path(__file__).resolve().parent
SIDE, BANDS = 64, 3
TILE = SIDE * SIDE * BANDS  # bytes: 12,288
BATCH = 256  # a rank's share of 16,384
NAME = "S2B_MSIL2A_20260714T101559_R065_T33UUP/tile_{:07d}.tif"


def make_pack(folder: Path, tiles: int) -> None:
    """A whole pack of unlabelled tiles, as rsssl.data.pack writes it; the pixels are a hole of the right length."""
    folder.mkdir(parents=True)
    third = (1 / 3,) * BANDS
    card = SensorCard(
        "scale",
        ("red", "green", "blue"),
        "uint8",
        (0.0,) * BANDS,
        (255.0,) * BANDS,
        None,
        third,
        third,
        (),
        (SIDE, SIDE),
    )
    meta = {
        "card": card.to_dict(),
        "sha256": "0" * 64,
        "source": "0" * 64,
        "root": "tiles",
        "skipped": {},
        "done": {},
        "labels": [-1] * tiles,
        "paths": [NAME.format(i) for i in range(tiles)],
        "fingerprint": "0" * 64,
    }
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in meta.items())
    (folder / "card.json").write_text("{" + lines + "}\n")
    np.save(folder / "moments.npy", np.random.default_rng(0).random((tiles, BANDS, 3)))
    make_hole(folder, tiles)


def make_hole(folder: Path, tiles: int) -> None:
    with open(folder / "images.bin", "wb") as file:
        file.truncate(tiles * TILE)


def seconds(call: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


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
    repeats = 5 if quick else 40
    first = folder / "shard-0000"
    start = time.perf_counter()
    make_pack(first, tiles)
    found: dict[str, Any] = {
        "shards": shards,
        "tiles_per_shard": tiles,
        "write_metadata_seconds": time.perf_counter() - start,
        "path_characters": len(NAME.format(0)),
        "card_bytes": (first / "card.json").stat().st_size,
        "moments_bytes": (first / "moments.npy").stat().st_size,
    }
    advance(0.1, "packs: one pack's metadata")
    for i in range(1, shards):  # every folder is a pack that can be opened; its metadata are links to the first one's
        other = folder / f"shard-{i:04d}"
        other.mkdir()
        make_hole(other, tiles)
        for name in ("card.json", "moments.npy"):
            os.link(first / name, other / name)
    found["logical_TB"] = shards * tiles * TILE / 1e12
    found["on_disk_MB"] = sum(f.stat().st_blocks for f in folder.glob("shard-*/images.bin")) * 512 / 1e6
    advance(0.1, f"packs: {shards} sparse files")
    runs = []
    for i in (0,) if quick else (0, shards // 2, shards - 1):
        command = [sys.executable, str(HERE / "opened.py"), str(folder / f"shard-{i:04d}")]
        runs.append(
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        )
        advance(0.1, "packs: opened")
    found["opened"] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}

    # The Pool of all: the metadata of one are shared, which a real training could not do.
    one = Pack.open(first)
    rows = np.arange(tiles)
    handles, start = len(os.listdir("/proc/self/fd")), time.perf_counter()
    packs = [
        replace(
            one,
            folder=folder / f"shard-{i:04d}",
            images=np.memmap(folder / f"shard-{i:04d}" / "images.bin", np.uint8, "r", shape=one.images.shape),
        )
        for i in range(shards)
    ]
    found["map_seconds"] = time.perf_counter() - start
    found["file_handles"] = len(os.listdir("/proc/self/fd")) - handles
    wide, narrow = Pool([Source(pack, rows) for pack in packs]), Pool([Source(one, rows)])
    found["gather"] = {}
    for name, pool in (("one_pack", narrow), ("all_packs", wide)):
        drawn, batches = draws(len(pool)), loader(pool)
        sources = statistics.mean(len(np.unique(next(drawn) // tiles)) for _ in range(10))

        def views(batches: PoolBatches = batches, drawn: Iterator[np.ndarray] = drawn) -> None:
            ids = next(drawn)
            batches._batch(0, ids, batches._gather(0, ids), SIDE)

        views()  # compiled now
        both = seconds(views, repeats // 4 + 1)
        read = seconds(lambda pool=pool, drawn=drawn: pool.gather(next(drawn)), repeats)
        found["gather"][name] = {"sources": sources, "gather_ms": 1e3 * read, "gather_and_views_ms": 1e3 * both}
        advance(0.1, f"packs: batches of {name}")
    found["real_read"] = real_read(folder / "real", 3_000 if quick else 250_000, repeats)
    advance(0.3, "packs: done")
    return found


def real_read(folder: Path, tiles: int, batches: int) -> dict[str, float]:
    """Scattered tiles of a pack with bytes in it, none in the system's cache: one read at a time, and several."""
    make_pack(folder, tiles)
    path, each = folder / "images.bin", 1_000
    block = np.random.default_rng(0).integers(0, 256, each * TILE, np.uint8)
    with open(path, "wb") as file:
        for i in range(0, tiles, each):
            file.write((block ^ np.uint8(i // each % 256)).data)
        file.flush()
        os.fsync(file.fileno())
    pack = Pack.open(folder)
    drawn = draws(tiles)
    found = {"GB": tiles * TILE / 1e9}
    for threads in (1, 4, 16):
        with open(path, "rb") as file:  # the system forgets what it had read; what lies below it may not
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with ThreadPoolExecutor(threads) as readers:
            start = time.perf_counter()
            for _ in range(batches):
                list(readers.map(pack.read, np.array_split(np.sort(next(drawn)), threads)))
            found[f"tiles_per_second_{threads}"] = batches * BATCH / (time.perf_counter() - start)
    return found
