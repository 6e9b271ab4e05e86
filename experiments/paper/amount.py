"""How much unlabelled data? Pools of 200 to all images of EuroSAT RGB, at equal steps and at equal epochs.

    python experiments/paper/amount.py --data DIR

From random weights with SimCLR, from ImageNet with VICReg: what the product advises for each. Equal steps: as many
for each pool as one pass over the largest takes. Equal epochs: one pass over each.
"""

from __future__ import annotations

import argparse

import signals
from runs import Network, Table, command_line, numbers, seeds_in_turn

POOLS = (200, 700, 2000, 6000, 21600)
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


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pools", type=numbers, default=POOLS, help="images without labels, as 200,700")
    parser.add_argument("--pretrain-seeds", type=numbers, default=[0], help="of the pre-training, as 0,1,2")
    options = parser.parse_intermixed_args()
    signals.bench(options, table(options)).all(networks(options))


if __name__ == "__main__":
    main()
