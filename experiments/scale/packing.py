"""Packing: before and after on real imagery, and a million tiles from tar archives by processes that share the parts.

    python experiments/scale/packing.py small --data DATA --before PYTHON [--folder DIR]
    python experiments/scale/packing.py make --folder DIR [--tiles 1000000]
    python experiments/scale/packing.py large --folder DIR [--tiles 1000000] [--processes 2] [--part 250000]

`small` packs EuroSAT below DATA with this installation and, in turn, with the one that another PYTHON has. `make`
writes archives of so many tiles, and `large` packs them: DIR then holds 20 kB a tile. Everything is a command as a user
types it; its memory is the largest that the system saw of it.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = sys.executable
SIDE, DISTINCT, PER = 64, 5000, 10_000  # pixels of a side; tiles that are drawn; tiles of an archive
NAMES = {"eurosat_rgb": "EuroSAT_RGB", "eurosat_ms": "EuroSAT_MS"}


def command(python: str, folder: Path, store: str, *keys: str) -> tuple[float, float, float]:
    """A packing with a new store; see `wait`."""
    (process,) = begin(python, folder, store, 1, *keys)
    return wait(process)


def begin(python: str, folder: Path, store: str, n: int, *keys: str) -> list[tuple[subprocess.Popen[bytes], float]]:
    """Starts the same packing n times."""
    environment = os.environ | {"RSSSL_STORE": str(folder / store)}
    argv = [python, "-m", "rsssl.run", "task=pack", *keys]
    started = []
    for i in range(n):
        with open(folder / f"{store}-{i}.log", "wb") as log:
            where = f"hydra.run.dir={folder / store}-run{i}"
            started.append(
                (
                    subprocess.Popen([*argv, where], cwd=folder, env=environment, stdout=log, stderr=log),
                    time.monotonic(),
                )
            )
    return started


def wait(started: tuple[subprocess.Popen[bytes], float]) -> tuple[float, float, float]:
    """Seconds that passed, seconds of a processor, and peak MB of a process, when it has ended."""
    process, begun = started
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the packing failed with {status}: see its log")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def small(options: argparse.Namespace) -> None:
    """Packs EuroSAT, in turn with both installations; the first turn is not counted, it fills the page cache."""
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in NAMES.items():
        measured: dict[str, list[tuple[float, float, float]]] = {}
        for turn in range(options.turns + 1):
            for python in (options.before, HERE):
                keys = (f"dataset={name}", f"dataset.root={options.data / images}")
                result = command(python, folder, "store", *keys)
                shutil.rmtree(folder / "store")
                if turn:
                    measured.setdefault(python, []).append(result)
        for label, python in (("before", options.before), ("after", HERE)):
            seconds, work, memory = zip(*measured[python], strict=True)
            turns = ", ".join(f"{s:.2f}" for s in seconds)
            print(
                f"{name} {label}: median {statistics.median(seconds):.2f} s of {turns}; at most {max(memory):.0f} MB;"
            )
            print(f"  {statistics.median(work):.2f} s of a processor")


def make(options: argparse.Namespace) -> None:
    """Archives of PNGs with a class beside each; DISTINCT images are drawn, and come again and again."""
    random = np.random.default_rng(0)
    images, y, x = [], *np.mgrid[:SIDE, :SIDE] / SIDE
    for _ in range(DISTINCT):
        phase, scale = random.uniform(0, 6.3, 3), random.uniform(2, 30, 2)
        waves = np.stack([np.sin(scale[0] * x + scale[1] * y + p) for p in phase], 2)
        noise = random.normal(size=(SIDE, SIDE, 1))
        content = io.BytesIO()
        Image.fromarray((128 + 80 * waves + 2 * noise).clip(0, 255).astype(np.uint8)).save(content, "PNG")
        images.append(content.getvalue())
    options.folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, options.tiles, PER):
        with tarfile.open(
            options.folder / f"tiles-{first // PER:05d}.tar", "w", format=tarfile.USTAR_FORMAT
        ) as archive:
            for i in range(first, min(first + PER, options.tiles)):
                for suffix, content in (("png", images[i % DISTINCT]), ("cls", str(i % 10).encode())):
                    info = tarfile.TarInfo(f"S2B_T33UUP_{i:09d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def large(options: argparse.Namespace) -> None:
    """All processes start at the same time and share the parts; --resume goes on with what is there."""
    if not options.resume:
        shutil.rmtree(options.folder / "store", ignore_errors=True)
    keys = ("dataset=folder", f"dataset.root={options.folder}/tiles-*.tar", f"pack.tiles={options.part}", "workers=1")
    started = begin(HERE, options.folder, "store", options.processes, *keys)
    for i, (seconds, work, memory) in enumerate(map(wait, started)):
        rate = f"{options.tiles / seconds:,.0f} tiles/s of all"
        print(f"process {i}: {seconds:.0f} s, {work:.0f} s of a processor, {rate}, peak {memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("small", "make", "large"))
    parser.add_argument("--folder", type=Path, default=Path("packing"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--before")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--part", type=int, default=250_000)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    {"small": small, "make": make, "large": large}[options.what](options)


if __name__ == "__main__":
    main()
