"""How far may the unlabelled images be from the labelled ones? Pre-trained on one dataset, evaluated on each.

    python experiments/paper/distance.py --data DIR

EuroSAT RGB, AID, NWPU-RESISC45 and a mixture of them, as many images of each (as the smallest pool has), at equal
steps, from both starts; beside them no pre-training. How far apart two pools are is the Frechet distance of their
features (ImageNet's, frozen) and of their bands' statistics. No test image is in a pool: the tests are those that the
runs without pre-training have listed.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import signals
from amount import METHODS
from PIL import Image
from runs import Bench, Network, Table, command_line
from signals import DATASETS
from tables import markdown, over, rank_correlation, spread, there, values

import rsssl

STARTS = ("imagenet", "random")
MIXTURE, NONE = "mixture", "none"
AXES = 32  # principal axes of all pools' features that the distance is measured in
KEYS = ("start", "method", "source", "target", "seconds", "pretrain_seed", "ts", "seed")
TILES = ["dataset=folder"]


class Transfer(Bench):
    """Trains on one dataset's pool, tests on another dataset."""

    def images_of(self, target: str) -> list[str]:
        """Overrides for the dataset that is tested on."""
        return [*TILES, f"dataset.name={target.lower()}", f"dataset.root={self.options.data.resolve() / target}"]

    def steps(self, network: Network) -> int:
        """As many for each source: those that the time buys on the first."""
        sources = (network.says["source"], self.options.datasets[0])
        name, first = (f"dataset.name={source.lower()}" for source in sources)
        return super().steps(replace(network, train=tuple(first if o == name else o for o in network.train)))

    def prepared(self, network: Network) -> list[str]:
        source, target = network.says["source"], network.says["target"]
        if source == NONE:
            return [*self.images_of(target), *network.train, *network.test]
        self.places = pool_places(self.options, source)
        says = {k: v for k, v in network.says.items() if k != "target"}
        trained = self.train(Network(says, network.train), f"pretrain.steps={self.steps(network)}")
        self.places = []
        return ["task=evaluate", f"checkpoint={trained['folder']}", *self.images_of(target), *network.test]


def network(start: str, source: str, target: str, seconds: float) -> Network:
    """A method trained on a source, tested on a target."""
    method = NONE if source == NONE else METHODS[start]
    base = signals.network(method, start, signals.network_of(method, start), seconds)
    train = (
        base.train if source == NONE else (*TILES, "dataset.classes=[]", f"dataset.name={source.lower()}", *base.train)
    )
    says = {"start": start, "method": method, "source": source, "target": target, "seconds": base.says["seconds"]}
    return Network(says | {"pretrain_seed": 0}, train, base.seconds)


def networks(options: argparse.Namespace) -> list[Network]:
    """The starts first, whose runs list the test images; then a source at a time."""
    starts = [network(start, NONE, target, 0.0) for target in options.datasets for start in options.starts]
    trained = [
        network(start, source, target, options.seconds)
        for start in options.starts
        for source in (*options.datasets, MIXTURE)
        for target in options.datasets
    ]
    return [*starts, *trained]


def pool_places(options: argparse.Namespace, source: str) -> list[str]:
    """Overrides for the images of a pool: a folder of links to files, of a mixture one for each dataset."""
    folder = options.out.resolve() / "pools"
    if source != MIXTURE:
        return [f"dataset.root={folder / source}"]
    roots = [folder / MIXTURE / name for name in options.datasets]
    names = ",".join(["folder"] * len(roots))
    where = ",".join(map(str, roots))
    return [f"dataset.root={roots[0]}", f"pretrain.dataset=[{names}]", f"pretrain.root=[{where}]"]


def tested_images(options: argparse.Namespace, bench: Bench, row: dict[str, str]) -> Path:
    """The list of a run's test images; where the row came without its folder, the run is made again."""
    file = options.out / row["run"] / "predictions.csv"
    if not file.is_file():
        start = network(row["start"], NONE, row["target"], 0.0)
        bench.run(row["run"], *bench.prepared(start), f"ts={row['ts']}", f"seed={row['seed']}", "evaluate=linear")
    return file


def make_pools(options: argparse.Namespace, bench: Bench) -> None:
    """Links to as many pool images of each dataset, drawn at random, and to a share of these for the mixture."""
    folder = options.out.resolve() / "pools"
    if folder.is_dir():
        return
    pools = {}
    for name in options.datasets:
        row = bench.results.find(source=NONE, target=name)[0]
        with open(tested_images(options, bench, row), newline="") as file:
            tests = {r["image"] for r in csv.DictReader(file)}
        root = options.data.resolve() / name
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.parent != root)
        pools[name] = [p for p in files if p.relative_to(root).as_posix() not in tests]
        assert len(files) - len(pools[name]) == len(tests), f"{root}: not all of its test images were found"
    size, part = min(map(len, pools.values())), folder.with_suffix(".part")
    for name, files in pools.items():
        drawn = np.random.default_rng(0).permutation(len(files))[:size]
        for number, i in enumerate(drawn):
            shared = [part / MIXTURE / name] if number < size // len(pools) else []
            for place in (part / name, *shared):
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}{files[i].suffix}").symlink_to(files[i])
    part.rename(folder)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two samples (n, D), (m, D) (arXiv 1706.08500)."""
    first, second = np.cov(a.T), np.cov(b.T)
    values, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared
    return max(0.0, float(apart))


def band_statistics(folder: Path) -> np.ndarray:
    """(N, 6): each image's mean and standard deviation per band."""
    images = [np.asarray(Image.open(p).convert("RGB"), np.float64) for p in sorted(folder.rglob("*.*"))]
    return np.stack([np.concatenate([i.mean((0, 1)), i.std((0, 1))]) for i in images])


def distances(options: argparse.Namespace, bench: Bench) -> None:
    """How far each pool is from each dataset's, written beside the results."""
    table = Table(options.csv / "distances.csv", ("source", "target"))
    names = (*options.datasets, MIXTURE)
    if len(table.rows()) == len(names) * len(options.datasets):
        return
    start = options.out / bench.results.find(source=NONE, start=options.starts[0])[0]["run"]
    folders = {name: options.out.resolve() / "pools" / name for name in names}
    features = together({name: rsssl.features(start, folder)[0] for name, folder in folders.items()}, AXES)
    bands = together({name: band_statistics(folder) for name, folder in folders.items()})
    for source in names:
        for target in options.datasets:
            how = {"features": frechet(features[source], features[target])}
            how["bands"] = frechet(bands[source], bands[target])
            table.add({"source": source, "target": target} | {k: f"{v:.4f}" for k, v in how.items()})


def together(samples: dict[str, Any], axes: int | None = None) -> dict[str, np.ndarray]:
    """Samples (n, D) in common coordinates of total variance 1: standardised, or in their first principal axes."""
    joined = np.concatenate([np.asarray(s, np.float64) for s in samples.values()])
    centred = joined - joined.mean(0)
    if axes:
        centred = centred @ np.linalg.svd(centred, full_matrices=False)[2][:axes].T
        centred /= np.sqrt(centred.var(0).sum())
    else:
        centred /= centred.std(0) * np.sqrt(centred.shape[1])
    parts = np.split(centred, np.cumsum([len(s) for s in samples.values()])[:-1])
    return dict(zip(samples, parts, strict=True))


def table(options: argparse.Namespace) -> Table:
    return Table(options.csv / "distance.csv", KEYS)


def distance_table(folder: Path, start: str) -> str:
    """Question 2 from one start, 20 labels a class."""
    rows = [r for r in table(signals.planned(folder)).rows() if r["start"] == start]
    lines = []
    for source in (NONE, *DATASETS, MIXTURE):
        line = [{NONE: "(the start)"}.get(source, source)]
        for target in DATASETS:
            line += [spread(values(rows, source=source, target=target, ts=ts)) for ts in (5, 20)]
        lines.append(line)
    head = ["pre-trained on", *(f"{t}, {ts}" for t in DATASETS for ts in (5, 20))]
    todo = [n for n in networks(signals.planned(folder)) if n.says["start"] == start]
    return markdown(head, lines) + "\n\n" + there(rows, todo, ["source", "target"], (5, 20))


def losses(folder: Path, ts: int) -> list[dict[str, Any]]:
    """For each pair of a source and another target: how far, and how many points it costs."""
    far = {(r["source"], r["target"]): r for r in Table(folder / "distances.csv", ("source", "target")).rows()}
    rows, pairs = table(signals.planned(folder)).rows(), []
    for start in STARTS:
        for (source, target), how in far.items():
            same = [r for r in rows if r["start"] == start and r["source"] == r["target"] == target]
            other = [r for r in rows if (r["start"], r["source"], r["target"]) == (start, source, target)]
            if source != target and (lost := over(other, same, ts)):
                how_far = {name: float(how[name]) for name in ("features", "bands")}
                pairs.append({"start": start, "source": source, "target": target, "lost": -mean(lost), **how_far})
    return pairs


def nearer_is_better(pairs: list[dict[str, Any]], measure: str) -> tuple[int, int]:
    """Of two sources for one target: how often the nearer one loses less, and of how many comparisons."""
    both = [(a, b) for a, b in combinations(pairs, 2) if a["target"] == b["target"]]
    return sum((a[measure] < b[measure]) == (a["lost"] < b["lost"]) for a, b in both), len(both)


def loss_table(folder: Path) -> str:
    """Question 2: distance and loss of each pair, and whether one predicts the other."""
    far, pairs = Table(folder / "distances.csv", ("source", "target")).rows(), losses(folder, 20)
    lost = {(p["start"], p["source"], p["target"]): float(p["lost"]) for p in pairs}
    lines = [
        [r["source"], r["target"], f"{float(r['features']):.3f}", f"{float(r['bands']):.3f}"]
        + [f"{lost[k]:+.1f}" if (k := (s, r["source"], r["target"])) in lost else "-" for s in STARTS]
        for r in far
        if r["source"] != r["target"]
    ]
    text = markdown(
        ["source", "target", "features", "bands", *(f"points lost with 20 labels, {s}" for s in STARTS)], lines, 2
    )
    for start in STARTS:
        some = [p for p in pairs if p["start"] == start]
        if len(some) > 3:
            lost, ranks, better = [float(p["lost"]) for p in some], [], []
            for measure in ("features", "bands"):
                ranks.append(f"{rank_correlation([float(p[measure]) for p in some], lost):+.2f} ({measure})")
                right, compared = nearer_is_better([p for p in some if p["source"] != MIXTURE], measure)
                better.append(f"{right} of {compared} ({measure})")
            text += f"\n\nFrom {start}, {len(some)} pairs: rank correlation of loss and distance {', '.join(ranks)}; "
            text += f"of two other datasets the nearer is the better source in {', '.join(better)}."
    return text


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=DATASETS, help="folders under --data")
    parser.add_argument("--starts", type=lambda text: text.split(","), default=STARTS, help="imagenet,random")
    parser.set_defaults(ts=(5, 20))  # NWPU's sample has 40 images a class in its pool
    options = parser.parse_intermixed_args()
    like = signals.bench(options, table(options))
    bench = Transfer(options, like.results, like.costs, like.trainings)
    todo = networks(options)
    starts = [n for n in todo if n.says["source"] == NONE]
    bench.all(starts)
    make_pools(options, bench)
    distances(options, bench)
    bench.all([n for n in todo if n not in starts])


if __name__ == "__main__":
    main()
