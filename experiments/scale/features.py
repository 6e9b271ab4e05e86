"""What evaluating on the features of a large pool takes of memory, at several sizes of the pool.

    python experiments/scale/features.py [--rows 100000,400000] [--width 1280] [--folder DIR]

Each line is measured in a process of its own: its largest memory (VmHWM) less what it had before the work began. DIR
holds the features meanwhile, 4 bytes times rows times width; they are removed. One thread, 2 busy cores (AMD EPYC, Zen
3), torch 2.15, Python 3.11; MB, of which some 170 are code that is loaded then:

    rows                        100,000    400,000
    fill                             15         30    computing and keeping all features
    knn                             381        433    1,000 labels, a fifth of the rows tested
    ridge                           309        326
    propagate                       370        358    20,000 images of the pool looked at
    knn all                         720      2,201    every image remembered: 512 and 2,048 are their features
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LABELS, CLASSES, FEW = 1000, 10, 100
STAGES = ("fill", "knn", "knn all", "propagate", "ridge")


def memory() -> dict[str, float]:
    """MB of this process, now ("VmRSS") and at most ("VmHWM")."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) / 1e3 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}


def measured(call: Callable[[], Any]) -> dict[str, float]:
    before, begin = memory()["VmRSS"], time.monotonic()
    call()
    return {"megabytes": memory()["VmHWM"] - before, "seconds": time.monotonic() - begin}


def stage(name: str, folder: Path, n: int, width: int) -> dict[str, float]:
    """One stage: the bank filled; a classifier fitted to LABELS images and evaluated on a fifth of the pool; or, "knn
    all", the neighbours of a few images in the whole pool."""
    import numpy as np
    import torch

    from rsssl.engine.store import Store
    from rsssl.evaluation.features import FeatureBank
    from rsssl.evaluation.frozen import fitted
    from rsssl.evaluation.job import Job
    from rsssl.jobs import configured

    torch.set_num_threads(1)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))

    def extract(rows: np.ndarray) -> torch.Tensor:
        noise = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(int(rows[0])))
        return centres[torch.from_numpy(rows) % CLASSES] + 4 * noise

    bank, test = FeatureBank(folder, n, extract), np.arange(4 * n // 5, n)
    if name == "fill":
        return measured(lambda: bank.complete(np.arange(n)))
    pool = np.arange(4 * n // 5)
    probe = configured("evaluate", name.split()[0])
    if name == "knn all":
        some, labels = bank.kept(test[:FEW]), torch.arange(n) % CLASSES
        return measured(lambda: probe.fit(bank.kept(np.arange(n)), labels, CLASSES, 0).scores(some))
    train = pool[:: len(pool) // LABELS][:LABELS]
    pack = SimpleNamespace(labels=np.arange(n) % CLASSES, card=SimpleNamespace(classes=tuple("abcdefghij")))
    data: Any = SimpleNamespace(pack=pack, split=SimpleNamespace(pool=pool, test=test, hash="x"), ground=None)
    job = Job(data, Store(folder), torch.device("cpu"), train, test, 0, "clean", False)
    return measured(lambda: fitted(job, probe, [bank]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,400000")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(stage(options.stage, options.folder, int(options.rows), options.width)))
        return
    for n in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="rsssl-features-", dir=options.folder) as folder:
            for name in options.stages.split(","):
                command = [sys.executable, __file__, "--stage", name, "--rows", str(n), "--folder", folder]
                done = subprocess.run(
                    [*command, "--width", str(options.width)], capture_output=True, text=True, check=True
                )
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{n:>10,} rows  {name:<10} {found['megabytes']:>8,.0f} MB  {found['seconds']:>7.1f} s", flush=True
                )


if __name__ == "__main__":
    main()
