"""README.md with its tables, and its plots, made anew of the CSVs beside it: `python experiments/paper/record.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from amount import amount_table
from budget import budget_table, defect_table, recipe_table, scenes_table
from distance import distance_table, loss_table
from plots import PLOTS, drawn, image
from protocol import protocol_table
from runs import FOLDER
from seeds import seeds_table
from signals import bands_table, signal_table
from tables import trained

README = FOLDER / "README.md"


def hours(folder: Path) -> str:
    """What the pre-trainings took."""
    rows = trained(folder).values()
    total = sum(float(r["cpu_seconds"]) for r in rows) / 3600
    return f"{len(rows)} pre-trainings, {total:.1f} hours of one processor for them."


PLACES: dict[str, Callable[[Path], str]] = {
    "signals from random weights": lambda folder: signal_table(folder, "random"),
    "signals from ImageNet": lambda folder: signal_table(folder, "imagenet"),
    "seeds from random weights": lambda folder: seeds_table(folder, "random"),
    "seeds from ImageNet": lambda folder: seeds_table(folder, "imagenet"),
    "bands from random weights": lambda folder: bands_table(folder, "random"),
    "bands from ImageNet": lambda folder: bands_table(folder, "imagenet"),
    "distance from ImageNet": lambda folder: distance_table(folder, "imagenet"),
    "distance from random weights": lambda folder: distance_table(folder, "random"),
    "losses": loss_table,
    "amount": amount_table,
    "protocol": protocol_table,
    "budget": budget_table,
    "recipes": recipe_table,
    "defects": defect_table,
    "scenes": scenes_table,
    "hours": hours,
    **{f"plot of {name}": partial(image, name=name) for name in PLOTS},
}


def filled(text: str, folder: Path) -> str:
    """The text with each table in its place, between <!-- NAME --> and <!-- end -->."""
    for name, table in PLACES.items():
        mark = f"<!-- {name} -->\n"
        before, found, rest = text.partition(mark)
        if found:
            text = before + mark + table(folder) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2]
    return text


def main() -> None:
    README.write_text(filled(README.read_text(), FOLDER))
    for name, (draw, _) in PLOTS.items():
        if drawn(FOLDER, name):
            (FOLDER / f"{name}.png").write_bytes(draw(FOLDER))


if __name__ == "__main__":
    main()
