"""The batches of a training whose packs are in object storage on this machine, through a cache smaller than the packs.

    OMP_NUM_THREADS=1 python experiments/scale/remote.py [--folder DIR] [--gb 2] [--cache-gb 0.5] [--epochs 2]

It makes packs of so many GB, serves them by HTTP and by moto's S3 server, and goes through epochs of batches of 256
there and on the disk, each in a process of its own; then it prints the table of README.md. DIR holds twice the packs,
and all is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from packs import SIDE, TILE

from rsssl.api import dataset
from rsssl.augment import Symmetry, Views
from rsssl.data.chunks import mean_std
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.packs import join
from rsssl.data.pool import Pool, Source
from rsssl.data.prepared import load
from rsssl.data.write_pack import Content, write_pack
from rsssl.engine.files import sha256_of
from rsssl.engine.store import Store
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess

TESTS = Path(__file__).resolve().parents[2] / "tests"
TILES = 2560  # of a pack: 31 MB, ten blocks
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
BATCH = 256


def make(folder: Path, packs: int) -> None:
    """So many packs of noise as one dataset."""
    random, half = np.random.default_rng(0), (0.5,) * 3
    for k in range(packs):
        part = folder / f"part-{k:05d}"
        part.mkdir(parents=True)
        pixels = random.integers(0, 256, (TILES, TILE), np.uint8)
        pixels.tofile(part / "images.part")
        channels = pixels.reshape(TILES, 3, -1) / 255
        moments = np.stack([np.full((TILES, 3), SIDE * SIDE), channels.sum(2), (channels**2).sum(2)], 2)
        moments.tofile(part / "moments.part")
        names = [f"{k}/{i}.tif" for i in range(TILES)]
        files = part / "images.part", sha256_of(part / "images.part"), part / "moments.part"
        mean, std = (tuple(v.tolist()) for v in mean_std(moments.sum(0)))
        numbers = (0.0,) * 3, (255.0,) * 3, None, mean or half, std
        card = SensorCard("noise", ("red", "green", "blue"), "uint8", *numbers, (), (SIDE, SIDE))
        about = {"sums": moments.sum(0).tolist(), "source": "s", "root": "/r", "done": {}}
        write_pack(part, card, Content(*files, names, np.full(TILES, -1), None, {}), about)
    join(folder, "s", "/r")


@contextmanager
def http(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    code = f"import sys, time; sys.path.insert(0, {str(TESTS)!r}); from pathlib import Path; import range_server as r; "
    code += f"print(r.RangeServer(Path({str(folder.parent)!r})).url, flush=True); time.sleep(1e6)"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        yield f"{server.stdout.readline().strip()}/{folder.name}", {}
    finally:
        server.kill()


@contextmanager
def s3(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    code = "import time; from moto.server import ThreadedMotoServer as S; s = S(port=0, verbose=False); s.start(); "
    code += "print('http://%s:%d' % s.get_host_and_port(), flush=True); time.sleep(1e6)"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout
    try:
        environment = KEYS | {"AWS_ENDPOINT_URL": server.stdout.readline().strip()}
        os.environ.update(environment)
        import s3fs

        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        files.put(f"{folder}/", "bucket/packs/", recursive=True)
        yield "s3://bucket/packs", environment
    finally:
        server.kill()


def resident() -> int:
    """MiB of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def go_through(root: str, folder: Path, cache_gb: float, epochs: int) -> dict[str, Any]:
    """In a process of its own: reads the batches of some epochs."""
    store = Store(folder / "store", (str(folder / "cache"), cache_gb))
    begin = time.perf_counter()
    data = load(dataset("pack", root=root, test_fraction=0), store, 1)
    opened, blocks = time.perf_counter() - begin, store.opened.get("blocks")
    pool = Pool([Source(data.pack, data.split.pool)])
    preprocess = Preprocess(data.pack.card, SIDE, data.mean, data.std)
    batches = PoolBatches(pool, Views(operations=[Symmetry()]), 2, preprocess, Sampling(BATCH, epochs, 0, "scale"))
    memory, kept, begin = [], 0, time.perf_counter()
    for number, _ in enumerate(batches._read(0)):
        if number % 50 == 0:
            memory.append(resident())
            kept = max(kept, sum(f.stat().st_size for f in (folder / "cache").glob("*/*") if f.exists()))
    read = time.perf_counter() - begin
    return {
        "opened": opened,
        "images_per_second": epochs * batches.batches_per_epoch * BATCH / read,
        "fetched_MB": blocks.fetched / 1e6 / epochs if blocks else 0,
        "cache_MB": kept / 1e6,
        "memory": [memory[len(memory) * k // 4] for k in (1, 2, 3)] + [memory[-1]],
    }


def case(name: str, root: str, environment: dict[str, str], folder: Path, options: argparse.Namespace) -> None:
    arguments = [root, str(folder / name), str(options.cache_gb), str(options.epochs)]
    command = [sys.executable, __file__, "--read", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    n = json.loads(done.stdout.splitlines()[-1])
    fetched = f"{n['fetched_MB']:,.0f} MB" if n["fetched_MB"] else "-"
    memory = ", ".join(f"{m:,}" for m in n["memory"])
    print(f"| {name} | {n['images_per_second']:,.0f} | {fetched} | {n['cache_MB']:,.0f} MB | {memory} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        root, folder, cache_gb, epochs = sys.argv[2:]
        print(json.dumps(go_through(root, Path(folder), float(cache_gb), int(epochs))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--cache-gb", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rsssl-remote-", dir=options.folder) as name:
        folder = Path(name)
        packs, n = folder / "packs", max(1, round(options.gb * 1e9 / TILES / TILE))
        make(packs, n)
        print(f"{n} packs, {n * TILES:,} tiles, {n * TILES * TILE / 1e9:.2f} GB; cache {options.cache_gb:g} GB")
        print("| from | images/s | fetched an epoch | cache, at most | MiB after each quarter |")
        print("| --- | --- | --- | --- | --- |")
        case("disk", str(packs), {}, folder, options)
        for name, server in (("HTTP", http), ("S3", s3)):
            with server(packs) as (root, environment):
                case(name, root, environment, folder, options)


if __name__ == "__main__":
    main()
