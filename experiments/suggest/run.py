"""Do suggested labels beat random ones? One pre-training, then label budgets spent in different ways, one table.

    python experiments/suggest/run.py --data DIR [--seeds 10] [--budgets 10,20,50,100,200] [--protocol validation]

Pre-trains on 6,000 images of EuroSAT RGB, computes the features of all images once, and then, for each seed, takes
6,000 images of the pool, chooses that many of them to label in each way, fits the linear probe to exactly these and
tests it on the fixed test set (with --protocol validation on a fifth of the pool; the test set stays closed). The store
is the runner's own: a repeated command pre-trains no second time. A row a measurement: OUT/results.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.compose import Composer, composed
from rsssl.data.prepared import Data, load
from rsssl.data.split import labelled_subset
from rsssl.evaluation.features import feature_bank
from rsssl.evaluation.suggest import coverage, margin, typicality
from rsssl.jobs import configured
from rsssl.jobs import prepared as prepared_task
from rsssl.networks.weights import pretrained_or_train

CANDIDATES = 6000  # images of the pool that a seed chooses from

# features (N, D), labels (N,) of the candidates, n, seed -> the rows to label
Way = Callable[[Tensor, Tensor, int, int], Tensor]


def random(x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    return torch.from_numpy(rng.permutation(rng.fold(seed, "random"), len(x))[:n])


def stratified(x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    """As many of every class: what nobody can do who has not labelled all of them."""
    per_class = n // int(y.max() + 1)
    names = [str(i) for i in range(len(x))]
    return torch.from_numpy(labelled_subset(y.numpy(), names, np.arange(len(x)), per_class, seed))


def by_typicality(x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    return typicality(x, n, seed).rows


def by_coverage(x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    return coverage(x, n).rows


def by_margin(x: Tensor, y: Tensor, n: int, seed: int) -> Tensor:
    """Half by typicality, then what the classifier trained on these cannot decide."""
    first = typicality(x, n // 2, seed).rows
    probe = configured("evaluate", "linear").fit(x[first], y[first], int(y.max() + 1), seed)
    return torch.cat([first, margin(probe.scores(x).exp(), x, n - n // 2, seed, first).rows])


WAYS: dict[str, Way] = {
    "random": random,
    "stratified": stratified,
    "typicality": by_typicality,
    "coverage": by_coverage,
    "margin": by_margin,
}


def prepared(root: Path, out: Path, protocol: str, overrides: list[str]) -> tuple[Data, Tensor]:
    """The packed dataset and the features of all its images (N, D) under the default recipe's weights."""
    store = f"paths.store={out.resolve()}/store"
    line = [
        "dataset=eurosat_rgb",
        f"dataset.root={root}",
        "ssl=simclr",
        "backbone=resnet18",
        "start=random",
        "pretrain.average=0",
        "pretrain.images=6000",
        "pretrain.epochs=10",
        store,
        *overrides,
    ]
    folder = out / "pretrain"
    subprocess.run(["rsssl-run", "task=pretrain", *line, f"hydra.run.dir={folder}"], check=True)
    place = json.loads((folder / "pretrain.json").read_text())["pretrain"]["folder"]
    with Composer() as composer:
        cfg = composed(composer, [*line, f"checkpoint={place}"])
        task, run = prepared_task(cfg, {"task": "pipeline", "ssl": "simclr"}, folder)
        data = load(task.dataset, run.store, None, protocol)
        weights = pretrained_or_train(task, task.checkpoint, data, run)
    return data, feature_bank(run.store, data.pack, weights, run.device).get(np.arange(len(data.pack)))


def measure(data: Data, features: Tensor, way: Way, n: int, seed: int) -> dict[str, float]:
    """Overall accuracy on the test rows, after labelling n of a seed's own candidates."""
    labels, classes = torch.from_numpy(data.pack.labels), len(data.pack.card.classes)
    pool = data.split.pool[np.sort(rng.permutation(rng.fold(seed, "candidates"), len(data.split.pool))[:CANDIDATES])]
    begin = time.perf_counter()
    chosen = torch.from_numpy(pool)[way(features[pool], labels[pool], n, seed)]
    seconds = time.perf_counter() - begin
    assert len(chosen.unique()) == n
    probe = configured("evaluate", "linear").fit(features[chosen], labels[chosen], classes, seed)
    right = probe.scores(features[data.split.test]).argmax(1) == labels[data.split.test]
    return {"oa": float(right.float().mean()), "classes": len(labels[chosen].unique()), "seconds": seconds}


def table(rows: list[dict[str, float | str | int]], budgets: list[int]) -> str:
    """Mean and sample std over the seeds, as Markdown: accuracy in percent, and the classes found if one was missed."""
    lines = [f"| labelled by | {' | '.join(map(str, budgets))} |", "| --- |" + " ---: |" * len(budgets)]
    for name in dict.fromkeys(r["method"] for r in rows):
        cells = []
        for n in budgets:
            oa, found, seconds = (
                np.array([float(r[key]) for r in rows if r["method"] == name and r["budget"] == n])
                for key in ("oa", "classes", "seconds")
            )
            cells.append(
                f"{100 * oa.mean():.1f} ± {100 * oa.std(ddof=1):.1f} ({found.mean():.1f}, {seconds.mean():.1f} s)"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(file: Path, rows: list[dict[str, float | str | int]]) -> None:
    with open(file, "w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of EuroSAT RGB")
    parser.add_argument("--out", type=Path, default=Path("runs/suggest"), help="store, log and results.csv")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", default="10,20,50,100,200", help="labels in total; there are ten classes")
    parser.add_argument("--only", help=f"some of {','.join(WAYS)}")
    parser.add_argument("--protocol", choices=("clean", "validation"), default="clean")
    parser.add_argument("overrides", nargs="*", help="for the pre-training, as pretrain.epochs=3")
    options = parser.parse_intermixed_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    budgets = [int(n) for n in options.budgets.split(",")]
    names = options.only.split(",") if options.only else list(WAYS)
    data, features = prepared(options.data, options.out, options.protocol, options.overrides)
    rows: list[dict[str, float | str | int]] = []
    for name in names:
        for n in budgets:
            for seed in range(options.seeds):
                rows.append({"method": name, "budget": n, "seed": seed} | measure(data, features, WAYS[name], n, seed))
            print(
                table([r for r in rows if r["method"] == name and r["budget"] == n], [n]).splitlines()[-1], flush=True
            )
            write(options.out / "results.csv", rows)  # what there is: the whole takes a while
    print(
        f"\nOverall accuracy in percent on {len(data.split.test)} images (classes found, seconds to choose), by labels "
        f"in total, {options.seeds} seeds\n\n{table(rows, budgets)}\n\n{options.out / 'results.csv'}"
    )


if __name__ == "__main__":
    main()
