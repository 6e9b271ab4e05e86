"""Which self-supervised signal suits a scene dataset, when each may train for the same time? One command, one table.

    python experiments/signals/run.py --data DIR [--seconds 90] [--only simclr,byol] [--dataset eurosat_rgb]

Each method of the `ssl` group, with the recipe of its YAML, pre-trains on the same 6,000 unlabelled images for as many
steps as fit into the time, which a short run measures first; then linear classifiers on 5, 20 and 100 labels per class,
5 seeds. The table is rsssl-report's, of OUT/runs. The store is the runner's own: a repeated command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rsssl.groups import group_options

CALIBRATION = 20  # steps of the short run
LEFT_OUT = ("none", "seasonal", "distil")  # need tiles of one place at several dates; a teacher


def rsssl_run(arguments: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        code = subprocess.run(["rsssl-run", *arguments], stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SystemExit(f"rsssl-run {' '.join(arguments)} failed; the last lines of {log}:\n{log.read_text()[-2000:]}")


def network(method: str) -> list[str]:
    """The method, on a ResNet-18 unless it brings a transformer."""
    return [f"ssl={method}", *([] if method in ("mae", "dino") else ["backbone=resnet18"])]


def steps(common: list[str], method: str, seconds: float, out: Path) -> int:
    """How many steps of pre-training fit into the time."""
    key = hashlib.sha256(json.dumps([*common, method]).encode()).hexdigest()[:8]
    folder = out / "calibration" / f"{method}-{key}"
    note = folder / "pretrain.json"
    if not note.is_file():
        few = ["task=pretrain", f"pretrain.steps={CALIBRATION}", "pretrain.pictures=0", "pretrain.probes=0"]
        rsssl_run([*common, *network(method), *few, f"hydra.run.dir={folder}"], out / "logs" / f"{method}.txt")
    found = json.loads(note.read_text())["pretrain"]
    return max(1, round(seconds * found["steps"] / found["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the dataset's folder, unless it is made here (synthetic)")
    parser.add_argument("--dataset", default="eurosat_rgb", help="any option of the group `dataset`")
    parser.add_argument("--out", type=Path, default=Path("runs/signals"), help="runs, pictures, logs and the table")
    parser.add_argument("--only", help="methods, separated by commas; all others keep the results they have")
    parser.add_argument("--seconds", type=float, default=90.0, help="of pre-training for each method")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--ts", default="5,20,100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="for rsssl-run, as protocol=validation or ssl.views=2")
    options = parser.parse_intermixed_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    out = options.out
    root = [f"dataset.root={options.data}"] if options.data else []
    common = [
        f"dataset={options.dataset}",
        *root,
        f"pretrain.images={options.images}",
        f"paths.store={out}/store",
        "tracker=csv",
        "start=random",
        "pretrain.average=0",
        *options.overrides,
    ]
    methods = options.only.split(",") if options.only else [m for m in group_options("ssl") if m not in LEFT_OUT]
    for number, method in enumerate(methods, 1):
        todo = steps(common, method, options.seconds, out)
        print(f"{number} of {len(methods)}: {method}, {todo} steps", flush=True)
        seeds = ",".join(map(str, range(options.seeds)))
        shutil.rmtree(
            out / "runs" / method, ignore_errors=True
        )  # a sweep of other steps or seeds; the store keeps its stages
        sweep = ["evaluate=linear", f"ts={options.ts}", f"seed={seeds}", f"hydra.sweep.dir={out}/runs/{method}"]
        few = [f"pretrain.steps={todo}", "pretrain.pictures=3", "pretrain.probes=0"]
        rsssl_run(["--multirun", *common, *network(method), *few, *sweep], out / "logs" / f"{method}.txt")
    subprocess.run(["rsssl-report", str(out / "runs")], check=True)


if __name__ == "__main__":
    main()
