"""How good a class map is, and how large its classes are: everything in accuracy.json that is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsssl.evaluation.metrics import scores
from rsssl.geo.good_practice import Z95, Estimate, estimate
from rsssl.geo.samples import Samples


def summary(names: list[str], samples: Samples, mapped: np.ndarray, unit: str) -> dict[str, Any]:
    """Everything in accuracy.json that is measured; fractions in 0..1, `*_ci95` half a confidence interval, None for
    unknown.
    """
    counts = samples.counts
    figures = estimate(counts, mapped)
    plain = scores(counts.T)  # which has the truth in rows
    per_class = {
        name: {
            "samples_map": int(counts[i].sum()),
            "samples_reference": int(counts[:, i].sum()),
            "users": number(figures.users[i]),
            "users_ci95": number(Z95 * figures.users_se[i]),
            "producers": number(figures.producers[i]),
            "producers_ci95": number(Z95 * figures.producers_se[i]),
            "producers_of_samples": number(plain["per_class"][i]),
            "mapped": number(mapped[i]),
            "area": number(figures.areas[i]),
            "area_ci95": number(Z95 * figures.areas_se[i]),
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
        "of_area": {
            "oa": number(figures.overall),
            "oa_ci95": number(Z95 * figures.overall_se),
            "covered": figures.covered,
        },
        "area_unit": unit,
        "per_class": per_class,
        "confusion": counts.tolist(),
        "proportions": figures.proportions.tolist(),
        "notes": samples.notes + caveats(names, counts, figures, unit),
    }


def caveats(names: list[str], counts: np.ndarray, figures: Estimate, unit: str) -> list[str]:
    """What the figures do not say, as sentences."""
    notes = []
    if figures.unsampled:
        listed = ", ".join(names[i] for i in figures.unsampled)
        notes.append(
            f"No sample lies in what is mapped as {listed}: the figures by area speak of the other "
            f"{100 * figures.covered:.1f} % of the map."
        )
    if figures.single:
        listed = ", ".join(names[i] for i in figures.single)
        notes.append(
            f"One sample alone lies in what is mapped as {listed}: without a second one, overall accuracy, areas and "
            "producer's accuracies have no confidence interval."
        )
    for i in np.flatnonzero((counts.sum(1) > 1) & (counts.sum(1) < 100) & (figures.users == 1)):
        n = int(counts[i].sum())
        least = 0.025 ** (1 / n)  # exact (Clopper and Pearson 1934); the formula's interval has no width here
        notes.append(
            f"All {n} samples in what is mapped as {names[i]} are right. That does not make its user's accuracy "
            f"100.0 ± 0.0 %: with so many samples it is {100 * least:.0f} % or more."
        )
    if unit != "ha":
        notes.append("The map has no CRS that says how large its pixels are: areas are in pixels.")
    notes.append(
        "Figures by area and their 95 % confidence intervals (Olofsson et al. 2014) hold for samples drawn at random, "
        "from each "
        "class of the map or from all of it; samples placed by hand may favour places that are easy to classify."
    )
    return notes


def number(value: Any) -> float | None:
    """As JSON has it: None for nan."""
    return None if np.isnan(value) else float(value)
