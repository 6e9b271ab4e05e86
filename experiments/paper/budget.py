"""Methods that stay near a random network: is it the budget, the recipe, or a defect?

    python experiments/paper/budget.py --data DIR

Budget: the methods with four times the time of signals.py, SimCLR beside them. Recipe: other settings at that longer
time, judged on a part of the pool (`protocol=validation`), never on test images. Defect: images made here whose
answer can be seen (the spatial frequency says where a tile comes from and which way is up), on which a method that
works has to solve its own puzzle in some hundred steps; and AID's scenes, which show more than Sentinel-2's tiles,
beside as many of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import signals
from PIL import Image
from runs import TS, Bench, Network, Table, command_line
from tables import Rows, effort, grouped, markdown, over, spread, there, trained, values

METHODS = ("rotation", "jigsaw2x2", "relative_position", "simsiam", "byol", "jigsaw3x3", "simclr")
JIGSAWS = ("jigsaw2x2", "jigsaw3x3")
PUZZLES = ("rotation", "jigsaw2x2", "jigsaw3x3", "relative_position")
LONGER = 4
UPRIGHT = "augment=upright"
# What else was tried, on a part of the pool.
RECIPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "simsiam": ((), ("ssl.views=4", "augment=rs", "optimizer.lr=1e-3"), ("optimizer=sgd", "optimizer.lr=0.05")),
    "byol": ((), ("ssl.views=4", "augment=rs"), ("ssl.momentum=0.97",)),
    "relative_position": ((), (UPRIGHT,)),
    "jigsaw2x2": ((), (UPRIGHT,)),
}
KEYS = ("part", "recipe", *signals.KEYS)
IMAGES, SIDE, STEPS = 512, 64, 150
AID_POOL = AID_STEPS = 1440


def network(part: str, method: str, recipe: tuple[str, ...], seconds: float | None) -> Network:
    """A method in one of the three parts of the question."""
    base = signals.network(method, "random", "resnet10t", seconds or 0.0)
    train = (*base.train, *recipe, *(["protocol=validation"] if part == "recipe" else []), "pretrain.seed=0")
    says = {"part": part, "recipe": " ".join(recipe), **base.says, "pretrain_seed": 0}
    return Network(says, train, seconds)


def networks(options: argparse.Namespace) -> list[Network]:
    """Those of the budget, then those of the recipes."""
    longer = LONGER * options.seconds
    budget = [network("budget", method, (), longer) for method in METHODS]
    none = network("recipe", "none", (), None)
    return [*budget, none, *(network("recipe", m, r, longer) for m, recipes in RECIPES.items() for r in recipes)]


def easy_images(folder: Path) -> None:
    """Images whose stripes become finer from left to right and from top to bottom, in folders of two classes."""
    random, place = np.random.default_rng(0), np.linspace(0, 1, SIDE)
    for number in range(IMAGES):
        phase = 40 * place**2 + random.uniform(0, 2 * np.pi, (2, 1))  # the frequency rises with the place
        stripes = np.sin(phase[0])[:, None] + np.sin(1.7 * phase[1])[None, :]
        pixels = 128 + 50 * stripes[..., None] * random.uniform(0.5, 1, 3) + random.normal(0, 8, (SIDE, SIDE, 3))
        file = folder / f"class_{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)


def defects(bench: Bench, options: argparse.Namespace) -> None:
    """Trains puzzles on images whose answer can be seen, and on few of EuroSAT; the rows say what share is solved."""
    folder = options.out.resolve() / "easy"
    if not folder.is_dir():
        easy_images(folder)
    solve(bench, PUZZLES, "easy", folder, options.steps, UPRIGHT)
    if options.data:
        few = f"pretrain.images={AID_POOL}"  # so that each is seen as often as one of AID's
        solve(bench, JIGSAWS[:1], "eurosat_few", options.data / "EuroSAT_RGB", options.aid_steps, few)


def solve(bench: Bench, methods: Sequence[str], name: str, folder: Path, steps: int, *recipe: str) -> None:
    """Trains each of the puzzles on a folder's images, once."""
    bench.common, bench.places = ["dataset=folder", f"dataset.name={name}", *recipe], [f"dataset.root={folder}"]
    for method in methods:
        made = network("defect", method, (), None)
        puzzle = Network({"images": name, **made.says}, (*made.train, f"pretrain.steps={steps}"))
        if bench.asked(puzzle) and not bench.trainings.find(network=puzzle.name):
            bench.train(puzzle)


def scenes(steps: int) -> list[Network]:
    """The jigsaws on AID, and the random network there."""
    made = [network("aid", method, (), None) for method in ("none", *JIGSAWS)]
    return [replace(n, train=(*n.train, f"pretrain.steps={steps}")) for n in made]


def on_scenes(options: argparse.Namespace) -> Bench:
    """What does AID's runs: with so many labels as its pool has."""
    few = argparse.Namespace(**vars(options) | {"ts": [ts for ts in options.ts if ts < 48]})
    bench = signals.bench(few, table(options))
    bench.common, bench.places = ["dataset=folder", "dataset.name=aid"], [f"dataset.root={options.data / 'AID'}"]
    return bench


def table(options: argparse.Namespace) -> Table:
    return Table(options.csv / "budget.csv", KEYS)


def budget_table(folder: Path) -> str:
    """Question 5: once and four times the time, and the share of puzzles solved."""
    rows, trainings = table(signals.planned(folder)).rows(), trained(folder)
    once = signals.table(signals.planned(folder)).find(start="random", pretrain_seed=0)
    start = [r for r in once if r["method"] == "none" and r["network"] == "resnet10t"]
    lines = [["(random network)", "", "", "", *(spread(values(start, ts=ts)) for ts in TS), ""]]
    for method in METHODS:
        short = [r for r in once if r["method"] == method]
        longer = [r for r in rows if r["part"] == "budget" and r["method"] == method]
        for found in (short, longer):
            figures = [spread(values(found, ts=ts)) for ts in TS]
            lines.append([method, *effort(found, trainings), *figures, solved(found, trainings)])
    head = ["method", "steps", "passes", "CPU s", *map(str, TS), "solved at the end"]
    todo = [n for n in networks(signals.planned(folder)) if n.says["part"] == "budget"]
    return markdown(head, lines) + "\n\n" + there(rows, todo, ["method"])


def solved(rows: Rows, trainings: dict[str, dict[str, str]]) -> str:
    """The share of puzzles that a cell's first pre-training solved at its end; nothing where it has none."""
    share = trainings.get(rows[0]["artifact"], {}).get("solved_last") if rows else None
    return f"{100 * float(share):.0f} %" if share else ""


def recipe_table(folder: Path) -> str:
    """Question 5: other settings, on a part of the pool."""
    rows = table(signals.planned(folder)).find(part="recipe")
    trainings, lines = trained(folder), []
    for (method, recipe), found in sorted(grouped(rows, "method", "recipe").items()):
        figures = [spread(values(found, ts=ts)) for ts in TS]
        steps, passes, _ = effort(found, trainings)
        lines.append([method, f"`{recipe}`" if recipe else "", steps, passes, *figures, solved(found, trainings)])
    todo = [n for n in networks(signals.planned(folder)) if n.says["part"] == "recipe"]
    head = ["method", "changed", "steps", "passes", *map(str, TS), "solved at the end"]
    return markdown(head, lines, 2) + "\n\n" + there(rows, todo, ["method", "recipe"])


def defect_table(folder: Path) -> str:
    """Question 5: puzzles solved on images whose answer can be seen, on AID, and on EuroSAT at the longer time."""
    chance = {"rotation": 25.0, "jigsaw2x2": 100 / 24, "jigsaw3x3": 0.1, "relative_position": 12.5}
    found, lines = {r["network"]: r for r in trained(folder).values()}, []
    for where, prefix in (
        ("made here", "easy-defect"),
        ("AID", "aid"),
        ("EuroSAT", "eurosat_few-defect"),
        ("EuroSAT", "budget"),
    ):
        for method, share in chance.items():
            some = [r for name, r in found.items() if name.startswith(f"{prefix}-{method}-")]
            for r in some[:1]:
                solved = [f"{100 * float(r[f'solved_{when}']):.1f} %" for when in ("first", "last")]
                lines.append([where, method, r["images"], r["steps"], f"{share:.1f} %", *solved])
    return markdown(
        ["of", "method", "images", "steps", "chance", "solved, first tenth", "solved, last tenth"], lines, 2
    )


def scenes_table(folder: Path) -> str:
    """Question 5: what the jigsaws learn on AID."""
    rows = table(signals.planned(folder)).find(part="aid")
    start = [r for r in rows if r["method"] == "none"]
    lines = []
    for method in ("none", *JIGSAWS):
        found = [r for r in rows if r["method"] == method]
        gain = spread(over(found, start, 20), "+") if method != "none" else ""
        name = "(random network)" if method == "none" else method
        lines.append([name, *(spread(values(found, ts=ts)) for ts in TS[:2]), gain])
    return markdown(["AID", *map(str, TS[:2]), "over it, 20"], lines)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="on images whose answer can be seen")
    parser.add_argument("--aid-steps", type=int, default=AID_STEPS, help="on AID")
    options = parser.parse_intermixed_args()
    defects(signals.bench(options, table(options)), options)
    if options.data:
        on_scenes(options).all(scenes(options.aid_steps))
    signals.bench(options, table(options)).all(networks(options))


if __name__ == "__main__":
    main()
