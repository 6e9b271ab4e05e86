"""How much unlabelled data? Pools of 200 to all images of EuroSAT RGB, at equal steps and at equal epochs.

    python experiments/paper/amount.py --data DIR

From random weights with SimCLR, from ImageNet with VICReg: what the product advises for each. Equal steps: as many
for each pool as one pass over the largest takes. Equal epochs: one pass over each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import signals
from runs import TS, Network, Table, command_line, numbers, seeds_in_turn
from signals import POOLS
from tables import Rows, effort, markdown, spread, there, trained, values

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # two-sided, for 1, 2, ... degrees of freedom
BATCH = 64
METHODS = {"imagenet": "vicreg", "random": "simclr"}
KEYS = ("method", "start", "network", "equal", "images", "pretrain_seed", "ts", "seed")


def network(start: str, equal: str, images: int, steps: int) -> Network:
    """A method with a pool of so many images."""
    method = METHODS[start]
    base = signals.network(method, start, signals.network_of(method, start), 0.0)
    says = {k: v for k, v in base.says.items() if k != "seconds"} | {"equal": equal, "images": images}
    return Network(says, (*base.train, f"pretrain.images={images}", f"pretrain.steps={steps}"))


def networks(options: argparse.Namespace) -> list[Network]:
    """Largest and smallest pools first, so that the ends are there early."""
    most = max(options.pools)
    steps = -(-most // BATCH)  # one pass over the largest
    order = sorted(options.pools, key=lambda n: (n not in (min(options.pools), most), n))
    found = []
    for images in order:
        for start in METHODS:
            found.append(network(start, "steps", images, steps))
            if images < most:  # of the largest both are the same
                found.append(network(start, "epochs", images, max(1, round(steps * images / most))))
    return list(seeds_in_turn(found, options.pretrain_seeds))


def table(options: argparse.Namespace) -> Table:
    return Table(options.csv / "amount.csv", KEYS)


def slope(rows: Rows, ts: int) -> tuple[float, float] | None:
    """Points that doubling the pool brings, by least squares for each draw, and the half width of its 95 % interval."""
    found = []
    for seed in sorted({r["seed"] for r in rows}):
        some = [r for r in rows if r["seed"] == seed and r["ts"] == str(ts)]
        x, y = [np.log2(float(r["images"])) for r in some], [100 * float(r["oa"]) for r in some]
        if len(set(x)) > 2:
            found.append(float(np.polyfit(x, y, 1)[0]))
    if len(found) < 2:
        return None
    return mean(found), T_95[len(found) - 2] * stdev(found) / len(found) ** 0.5


def amount_rows(folder: Path, start: str, equal: str) -> Rows:
    """The rows of one line of the plot: the largest pool belongs to both."""
    rows = [r for r in table(signals.planned(folder)).rows() if r["start"] == start]
    return [r for r in rows if r["equal"] == equal or r["images"] == str(max(POOLS))]


def amount_table(folder: Path) -> str:
    """Question 3."""
    trainings, lines = trained(folder), []
    for start in METHODS:
        for equal in ("steps", "epochs"):
            rows = amount_rows(folder, start, equal)
            for images in POOLS:
                some = [r for r in rows if r["images"] == str(images)]
                lines.append(
                    [start, equal, f"{images:,}", *effort(some, trainings), *(spread(values(some, ts=t)) for t in TS)]
                )
            slopes = [slope(rows, ts) for ts in TS]
            shown = [f"{s[0]:+.2f} ± {s[1]:.2f}" if s else "-" for s in slopes]
            lines.append([start, equal, "each doubling", "", "", "", *shown])
    head = ["start", "equal", "images", "steps", "passes", "CPU s", *map(str, TS)]
    how = signals.planned(folder)
    whole = there(table(how).rows(), networks(how), ["start", "equal", "images"])
    return markdown(head, lines, 2) + "\n\n" + whole


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pools", type=numbers, default=POOLS, help="images without labels, as 200,700")
    parser.add_argument("--pretrain-seeds", type=numbers, default=[0], help="of the pre-training, as 0,1,2")
    options = parser.parse_intermixed_args()
    signals.bench(options, table(options)).all(networks(options))


if __name__ == "__main__":
    main()
