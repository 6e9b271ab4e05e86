"""Which signal? Every method from random weights and from ImageNet, each for the same time of a processor.

    python experiments/paper/signals.py --data DIR [--seconds 180] [--only simclr,none] [--hours 1]

Each method of `ssl=` with the recipe of its YAML on the whole pool of EuroSAT RGB, for as many steps as the time buys,
with the schedule over these steps; then a linear classifier on frozen features, 5, 20 and 100 labels per class, 5
draws of the labels. With `--pretrain-seeds 0,1` a second pre-training seed follows when all have had their first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from runs import SECONDS, SEEDS, TS, Bench, Network, Table, command_line, numbers, seeds_in_turn
from tables import Rows, effort, grouped, markdown, over, spread, there, trained, values

PAPER = ("simclr", "inpainting", "colorization", "jigsaw2x2", "jigsaw3x3", "relative_position", "marta_gan")
MODERN = ("vicreg", "moco_v3", "barlow_twins", "byol", "simsiam", "nnclr", "moco_v2", "swav", "dino", "simmim", "mae")
METHODS = ("simclr", "vicreg", *PAPER[1:], *MODERN[1:], "rotation")
KEYS = ("method", "start", "network", "seconds", "pretrain_seed", "ts", "seed")
SIZE = "pretrain.image_size=64"  # EuroSAT's own, whatever the start would enlarge it to
RESNET = ("backbone=resnet18", "backbone.name=resnet10t")
NETWORKS = {"resnet10t": RESNET, "vit_tiny_p8": ("backbone=vit_tiny_p8",), "lite0": ("backbone=efficientnet_lite0",)}
PRETRAIN_SEEDS = (0, 1)  # of seeds.py
POOLS = (200, 700, 2000, 6000, 21600)  # of amount.py
DATASETS = ("EuroSAT_RGB", "AID", "NWPU_RESISC45")  # folders under --data
STATISTICS = "image_statistics"  # of the bands, in place of a network's features
DEPTHS = "backbone.depths=3"  # features of three depths
RESTORING = ("inpainting", "colorization", "simmim")  # train feature maps, which EfficientNet's features lie behind


class Signals(Bench):
    """Runs on EuroSAT RGB, or on what the overrides name."""

    def judged(self, network: Network, found: dict[str, Any]) -> dict[str, Any]:
        figures: dict[str, Any] = found["baselines"][STATISTICS] if network.says["method"] == STATISTICS else found
        return figures


def network_of(method: str, start: str) -> str:
    """The network that a method is tried on."""
    if method == "mae":
        return "vit_tiny_p8"
    if start == "random":
        return "resnet10t@3" if method == "marta_gan" else "resnet10t"
    return "lite0@3" if method in ("marta_gan", *RESTORING) else "lite0"


def network(method: str, start: str, backbone: str, seconds: float) -> Network:
    """A method on a network from a start; `none` is the start itself."""
    name, _, depths = backbone.partition("@")
    train = (f"ssl={method}", f"start={start}", *NETWORKS[name], SIZE, *([DEPTHS] if depths else []))
    says = {"method": method, "start": start, "network": backbone, "seconds": f"{seconds:g}"}
    return Network(says, train, None if method == "none" else seconds)


def networks(options: argparse.Namespace) -> list[Network]:
    """All networks of the question, the most telling first."""
    beside = [("random", "resnet10t"), ("imagenet", "lite0"), ("random", "resnet10t@3"), ("random", "vit_tiny_p8")]
    once = [network("none", start, backbone, 0) for start, backbone in [*beside, ("imagenet", "lite0@3")]]
    once.insert(1, replace(once[0], says={**once[0].says, "method": STATISTICS}, test=("baselines=true",)))
    trained = []
    for method in METHODS:
        for start in ("random", "imagenet"):
            if (method, start) != ("mae", "imagenet"):  # no such weights of a ViT without a network connection
                trained.append(network(method, start, network_of(method, start), options.seconds))
    trained.append(network("vicreg", "imagenet", "lite0@3", options.seconds))  # whose start is better than lite0's
    seeds: Sequence[int] = options.pretrain_seeds
    again = [n for n in once if n.says["start"] == "random" and n.says["method"] == "none"]  # what is of a seed
    others = [seed for seed in seeds if seed != 0]
    return [*seeds_in_turn(once, [0]), *seeds_in_turn(again, others), *seeds_in_turn(trained, seeds)]


def bench(options: argparse.Namespace, results: Table) -> Bench:
    """What does the runs of a question."""
    root = [f"dataset.root={options.data / 'EuroSAT_RGB'}"] if options.data else []
    costs = Table(options.csv / "costs.csv", ("recipe",))
    trainings = Table(options.csv / "trainings.csv", ("artifact",))
    return Signals(options, results, costs, trainings, ["dataset=eurosat_rgb"], root)


def table(options: argparse.Namespace) -> Table:
    return Table(options.csv / "signals.csv", KEYS)


def planned(folder: Path, pretrain_seeds: Sequence[int] = (0,)) -> argparse.Namespace:
    """The commands' own options, as README.md types them."""
    return argparse.Namespace(
        csv=folder,
        seconds=SECONDS,
        ts=TS,
        seeds=SEEDS,
        pretrain_seeds=pretrain_seeds,
        pools=POOLS,
        datasets=DATASETS,
        starts=("imagenet", "random"),
    )


def compared(rows: Rows, trainings: dict[str, dict[str, str]], scales: Sequence[int], by: int) -> str:
    """The methods of these rows by their accuracy with `by` labels a class, what they started from below."""
    cells = grouped(rows, "method", "network")
    starts = {network: found for (method, network), found in cells.items() if method == "none"}
    order = sorted(cells, key=lambda c: (c[0] in ("none", STATISTICS), -mean(values(cells[c], ts=by) or [0.0])))
    lines = []
    for method, network in order:
        found = cells[method, network]
        gain = spread(over(found, starts.get(network, []), by), "+") if method not in ("none", STATISTICS) else ""
        name = {"none": "(the start)", STATISTICS: "(image statistics)"}.get(method, method)
        shown = "" if method == STATISTICS else network
        figures = [spread(values(found, ts=ts)) for ts in scales]
        lines.append([name, shown, *effort(found, trainings), *figures, gain])
    return markdown(
        ["method", "network", "steps", "passes", "CPU s", *map(str, scales), f"over its start, {by}"], lines, 2
    )


def signal_table(folder: Path, start: str) -> str:
    """Question 1 from one start, by the first pre-training seed; the others: seeds.py."""
    rows = table(planned(folder)).find(start=start, pretrain_seed=0)
    todo = [n for n in networks(planned(folder)) if n.says["start"] == start]
    return compared(rows, trained(folder), TS, 20) + "\n\n" + there(rows, todo, ["method"])


def bands_table(folder: Path, start: str) -> str:
    """Question 1 on tiles of 13 bands, whose CSVs lie in a folder of their own."""
    bands = folder / "bands"
    return compared(table(planned(bands)).find(start=start), trained(bands), (1, 5), 5)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pretrain-seeds", type=numbers, default=[0], help="of the pre-training, as 0,1,2")
    options = parser.parse_intermixed_args()
    bench(options, table(options)).all(networks(options))


if __name__ == "__main__":
    main()
