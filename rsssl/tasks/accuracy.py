"""`task=accuracy`: how good a class map is, and how large its classes are, by reference points, polygons or a raster."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

import rsssl
from rsssl.engine.files import write_atomic, write_json
from rsssl.engine.ranks import rank
from rsssl.evaluation.metrics import scores
from rsssl.geo.class_map import ClassMap
from rsssl.geo.good_practice import Z95, Estimate, estimate
from rsssl.geo.reference import Samples, compare
from rsssl.report.tables import NONE, to_csv
from rsssl.tasks.common import run_folder, save_config

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Compares `scene` with `reference`; writes accuracy.json and confusion.csv (`out`: OUT.json and OUT.csv), prints a table.

    Raises:
        UserError: for files, fields and classes that are not there, or when nothing can be compared.
    """
    if rank() > 0:
        return {}
    scene = ClassMap(os.path.expanduser(cfg.scene))
    samples = compare(scene, os.path.expanduser(cfg.reference), cfg.field)
    mapped, unit = scene.areas()
    results = summary(scene.names, samples, mapped, unit)
    results = {"task": "accuracy", "scene": str(cfg.scene), "reference": cfg.reference} | results
    results |= {"versions": {"rsssl": rsssl.__version__, "numpy": np.__version__}, "finished": time.time()}
    folder = run_folder()
    save_config(cfg, folder)
    files = targets(cfg.out, folder)
    write_json(files[0], results)
    write_atomic(files[1], matrix_csv(scene.names, samples.counts).encode())
    show(results, files)
    return results


def targets(out: str | None, folder: Path) -> tuple[Path, Path]:
    """Where the JSON and the CSV go: into the run folder, into the folder `out`, or beside each other as out.json and out.csv."""
    if out is None:
        return folder / "accuracy.json", folder / "confusion.csv"
    out = os.path.expanduser(out)
    if Path(out).is_dir():
        return Path(out) / "accuracy.json", Path(out) / "confusion.csv"
    base = Path(out[: -len(Path(out).suffix)]) if Path(out).suffix.lower() in (".json", ".csv") else Path(out)
    return base.with_name(base.name + ".json"), base.with_name(base.name + ".csv")


def summary(names: list[str], samples: Samples, mapped: np.ndarray, unit: str) -> dict[str, Any]:
    """Everything in accuracy.json that is measured; fractions in 0..1, `*_ci95` half a confidence interval, None for unknown."""
    counts = samples.counts
    found = estimate(counts, mapped)
    plain = scores(counts.T)  # which has the truth in rows
    per_class = {
        name: {
            "samples_map": int(counts[i].sum()),
            "samples_reference": int(counts[:, i].sum()),
            "users": number(found.users[i]),
            "users_ci95": number(Z95 * found.users_se[i]),
            "producers": number(found.producers[i]),
            "producers_ci95": number(Z95 * found.producers_se[i]),
            "producers_of_samples": number(plain["per_class"][i]),
            "mapped": number(mapped[i]),
            "area": number(found.areas[i]),
            "area_ci95": number(Z95 * found.areas_se[i]),
        }
        for i, name in enumerate(names)
    }
    return {
        "kind": samples.kind,
        "field": samples.field,
        "classes": names,
        "n_samples": int(counts.sum()),
        "left_out": {
            "outside": samples.outside,
            "nodata": samples.nodata,
            "unlabelled": samples.unlabelled,
            "unplaced": samples.unplaced,
        },
        "of_samples": {k: number(plain[k]) for k in ("oa", "aa", "kappa")},  # type: ignore[literal-required]
        "of_area": {"oa": number(found.overall), "oa_ci95": number(Z95 * found.overall_se), "covered": found.covered},
        "area_unit": unit,
        "per_class": per_class,
        "confusion": counts.tolist(),
        "proportions": found.proportions.tolist(),
        "notes": samples.notes + caveats(names, found, unit),
    }


def caveats(names: list[str], found: Estimate, unit: str) -> list[str]:
    """What the figures do not say, as sentences."""
    notes = []
    if found.unsampled:
        notes.append(
            f"No sample lies in what is mapped as {', '.join(names[i] for i in found.unsampled)}: the figures by area speak of "
            f"the other {100 * found.covered:.1f} % of the map."
        )
    if found.single:
        notes.append(
            f"One sample alone lies in what is mapped as {', '.join(names[i] for i in found.single)}: without a second one, "
            "overall accuracy, areas and producer's accuracies have no confidence interval."
        )
    if unit != "ha":
        notes.append("The map has no CRS that says how large its pixels are: areas are in pixels.")
    notes.append(
        "Figures by area and their 95 % confidence intervals (Olofsson et al. 2014) hold for samples drawn at random, from each "
        "class of the map or from all of it; samples placed by hand may favour places that are easy to classify."
    )
    return notes


def number(value: Any) -> float | None:
    """As JSON has it: None for nan."""
    return None if np.isnan(value) else float(value)


def matrix_csv(names: list[str], counts: np.ndarray) -> str:
    """The confusion matrix with its sums; a row for each class of the map, a column for each class of the reference."""
    rows = [[name, *row, sum(row)] for name, row in zip(names, counts.tolist(), strict=True)]
    return to_csv(["map \\ reference", *names, "sum"], [*rows, ["sum", *counts.sum(0).tolist(), int(counts.sum())]])


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each class."""
    unit = results["area_unit"]
    headings = ["Class", "Samples", "User's %", "Producer's %", f"Mapped {unit}", f"Estimated {unit}"]
    lines = [
        [
            name,
            str(c["samples_map"]),
            interval(c["users"], c["users_ci95"], 100, 1),
            interval(c["producers"], c["producers_ci95"], 100, 1),
            f"{c['mapped']:,.1f}",
            interval(c["area"], c["area_ci95"], 1, 1),
        ]
        for name, c in results["per_class"].items()
    ]
    return headings, lines


def interval(value: float | None, half: float | None, factor: float, digits: int) -> str:
    """A value and half its confidence interval, such as "88.0 ± 7.4"."""
    if value is None:
        return NONE
    return f"{factor * value:,.{digits}f} ± {NONE if half is None else f'{factor * half:,.{digits}f}'}"


def show(results: dict[str, Any], files: tuple[Path, Path]) -> None:
    """The accuracies and the table on the terminal; never cut when piped."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)  # a pipe has no width
    plain = not console.encoding.lower().startswith("utf")

    def say(line: str, style: str = "") -> None:
        console.print(
            line.replace("±", "+/-").replace("—", "-") if plain else line, style=style, markup=False, soft_wrap=True
        )

    left, samples, area = results["left_out"], results["of_samples"], results["of_area"]
    kappa = NONE if samples["kappa"] is None else f"{samples['kappa']:.3f}"
    say(f"\n{results['scene']} by {results['n_samples']:,} {results['kind']} of {results['reference']}")
    say(
        f"  left out: {left['outside']:,} outside, {left['nodata']:,} where the map is nodata, "
        f"{left['unlabelled']:,} without a class, {left['unplaced']:,} without a place"
    )
    say(f"  of the samples  OA {100 * samples['oa']:.1f} %  kappa {kappa}")
    say(f"  of the area     OA {interval(area['oa'], area['oa_ci95'], 100, 1)} %")
    headings, lines = table(results)
    rich = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, heading in enumerate(headings):
        rich.add_column(heading, justify="right" if i else "left", overflow="fold")
    for line in lines:
        rich.add_row(*(t.replace("±", "+/-").replace("—", "-") if plain else t for t in map(escaped, line)))
    console.print()
    console.print(rich)
    console.print()
    for note in results["notes"]:
        say(note, "dim")
    for path in files:
        say(str(path))


def escaped(text: str) -> str:
    """Without rich's markup: a class may be called [water]."""
    from rich.markup import escape

    return escape(text)
