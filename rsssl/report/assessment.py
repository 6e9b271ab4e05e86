"""The accuracy of a class map as a table: on the terminal, and its confusion matrix as a CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rsssl.report.formats import to_csv
from rsssl.report.tables import NONE


def matrix_csv(names: list[str], counts: np.ndarray) -> str:
    """The confusion matrix with its sums; a row for each class of the map, a column for each class of the reference."""
    rows = [[name, *row, sum(row)] for name, row in zip(names, counts.tolist(), strict=True)]
    return to_csv(["map \\ reference", *names, "sum"], [*rows, ["sum", *counts.sum(0).tolist(), int(counts.sum())]])


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each class that the map or the samples have."""
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
        if c["mapped"] or c["samples_map"] or c["samples_reference"]
    ]
    return headings, lines


def interval(value: float | None, half: float | None, factor: float, digits: int) -> str:
    """A value and half its confidence interval, such as "88.0 ± 7.4"."""
    if value is None:
        return NONE
    return f"{factor * value:,.{digits}f} ± {NONE if half is None else f'{factor * half:,.{digits}f}'}"


def show(results: dict[str, Any], files: tuple[Path, Path]) -> None:
    """The accuracies and the table on the terminal; never cut when piped."""
    from rsssl.report.terminal import Terminal

    terminal = Terminal()
    left, samples, area = results["left_out"], results["of_samples"], results["of_area"]
    kappa = NONE if samples["kappa"] is None else f"{samples['kappa']:.3f}"
    warnings = [note for note in results["notes"] if note.startswith("Warning")]
    terminal.line(f"\n{results['class_map']} by {results['n_samples']:,} {results['kind']} of {results['reference']}")
    for warning in warnings:  # before the figures, and with the other notes after them
        terminal.line(f"  {warning}", "bold red")
    terminal.line(
        f"  left out: {left['outside']:,} outside, {left['nodata']:,} where the map is nodata, "
        f"{left['unlabelled']:,} without a class, {left['unplaced']:,} without a place"
    )
    terminal.line(f"  of the samples  OA {100 * samples['oa']:.1f} %  kappa {kappa}")
    terminal.line(f"  of the area     OA {interval(area['oa'], area['oa_ci95'], 100, 1)} %")
    headings, lines = table(results)
    terminal.table(headings, [[(text, "") for text in line] for line in lines])
    for note in results["notes"]:
        terminal.line(note, "bold red" if note in warnings else "dim")
    for file in files:
        terminal.line(str(file))
