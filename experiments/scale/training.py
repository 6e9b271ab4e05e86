"""Steps on many tiles: on one and on two ranks, from the disk and from object storage on this machine.

    OMP_NUM_THREADS=1 python experiments/scale/training.py PACKS [--folder DIR] [--steps 200] [--s3 PACK] [--cache-gb 1]

PACKS is a folder of packs, as `packing.py large` leaves it in DIR/store. Each training is a command as a user types it,
with a store of its own. The table has its images a second, the loss of its steps against one rank's on the disk (the
same order gives the same losses, but for rounding), and the memory of its processes after each quarter. PACK, some GB
of the same packs, is copied to moto's S3 server, and trained on from there and from the disk.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from remote import s3

NETWORK = "backbone.name=resnet10t +backbone.kwargs.channels=[16,16,32,32] +backbone.kwargs.stem_width=8 start=random"
KEYS = f"task=pretrain dataset=pack ssl=simclr pretrain.batch_size=256 pretrain.probes=0 device=cpu {NETWORK}".split()


def own(process: int) -> int:
    """MiB that a process has for itself: pages of files, which the system may drop, are not in it."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024


def children(process: int) -> list[int]:
    """A process and all below it."""
    below = [int(k) for k in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [process, *(grandchild for child in below for grandchild in children(child))]


def watch(process: int, seen: list[tuple[float, int]], ended: threading.Event) -> None:
    """Notes each second the largest memory of one process of a training."""
    while not ended.wait(1):
        try:
            seen.append((time.monotonic(), max(map(own, children(process)))))
        except (OSError, IndexError):  # one of them has ended meanwhile
            continue


def train(folder: Path, root: str, ranks: int, options: argparse.Namespace) -> tuple[list[float], str]:
    """Runs the command: the losses of its steps, and its cells of the table."""
    start = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    keys = [f"dataset.root={root}", f"pretrain.steps={options.steps}", f"paths.cache_gb={options.cache_gb}"]
    folder.mkdir(parents=True)
    keys += [f"paths.store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}", "pretrain.log_every=1"]
    with open(folder / "log", "wb") as log:
        command = [sys.executable, *start, "-m", "rsssl.run", *KEYS, *keys]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        seen: list[tuple[float, int]] = []
        ended = threading.Event()
        thread = threading.Thread(target=watch, args=(process.pid, seen, ended))
        thread.start()
        begin, code = time.monotonic(), process.wait()
        ended.set()
        thread.join()
    if code:
        sys.exit((folder / "log").read_text()[-3000:])
    with (folder / "run" / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    losses, speed = ([float(r["value"]) for r in rows if r["name"] == name] for name in ("loss", "images_per_second"))
    first = next(i for i, (_, size) in enumerate(seen) if size > 0.9 * max(s for _, s in seen))
    memory = [size for _, size in seen[first:]]
    quarters = ", ".join(f"{memory[(len(memory) - 1) * k // 4]:,}" for k in (1, 2, 3, 4))
    seconds = time.monotonic() - begin
    return losses, f"{seconds:.0f} s | {statistics.median(speed):,.0f} | {quarters}"


def case(name: str, losses: list[float], like: list[float], cells: str) -> None:
    far = max(abs(a - b) for a, b in zip(losses, like, strict=True))
    print(f"| {name} | {len(losses)} | {cells} | {far:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--s3", type=Path, metavar="PACK")
    parser.add_argument("--cache-gb", type=float, default=1.0)
    options = parser.parse_args()
    print("| from | steps | in all | images/s | MiB of the largest process, by quarters | loss, farthest |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="rsssl-training-", dir=options.folder) as name:
        folder = Path(name)
        alone, cells = train(folder / "1", str(options.packs.resolve()), 1, options)
        case("disk, 1 rank", alone, alone, cells)
        losses, cells = train(folder / "2", str(options.packs.resolve()), 2, options)
        case("disk, 2 ranks", losses, alone, cells)
        if options.s3:
            with s3(options.s3.resolve()) as (root, environment):
                os.environ.update(environment)
                first, cells = train(folder / "s3", root, 1, options)
                case("S3, 1 rank", first, first, cells)
                losses, cells = train(folder / "s3-2", root, 2, options)
                case("S3, 2 ranks", losses, first, cells)
        shutil.rmtree(folder)
        folder.mkdir()


if __name__ == "__main__":
    main()
