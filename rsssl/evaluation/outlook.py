"""What more labels would bring: the few-label curve, read off the labels at hand and carried on, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rsssl.evaluation.base import MOST, Probe
from rsssl.evaluation.on_disk import Features
from rsssl.rng import fold, permutation

# Error curves of classifiers on frozen features, error = a * labels^-slope, at 1 to 100 labels a class, on the
# validation images of EuroSAT, AID and NWPU: their slope, and the spread of that from one dataset and scale to another.
SLOPE, SLOPE_SPREAD = 0.28, 0.15
BEND = 0.06  # how far a curve is from a straight line, as a spread of its slope
DRAW = 0.2  # an error's relative spread over draws of one label a class; it falls with the root of their number
WITHIN = 1.645  # standard deviations either side that hold 90 %
REPEATS = 4  # draws for each part of the labels
FURTHER = (2, 4)  # times as many labels


def outlook(
    probe: Probe, features: Features, labels: Tensor, n_classes: int, seed: int, oa: float, tested: int
) -> list[dict[str, float]]:
    """What two and four times the labels would bring.

    A classifier's error falls as a power of the number of labels (Cortes et al. 1994, "Learning curves", equation 5,
    with an asymptote that few labels never come near). The slope is that of fits to a quarter, a half and three
    quarters of the labels, tested on the other labels, weighed against the usual slope by how many errors they rest on;
    the level is the measured error. No other test image or label is looked at. Of more than 5,000 labels,
    and of labels of which some are neighbours, only the usual slope is carried on.

    Args:
        probe: fitted.
        features: (n, D), and labels (n,), that it was fitted to.
        n_classes: number of classes.
        seed: draws the parts of the labels.
        oa: measured overall accuracy, 0..1.
        tested: number of images it was measured on.

    Returns:
        For each of the further scales "times" as many labels, "labels_per_class", and "oa", "low" and "high": overall
        accuracy and its 90 % interval.
    """
    per_class = len(labels) / len(labels.unique())
    apart = len(labels) <= MOST and probe.groups is None
    sizes, known = parts(labels, seed) if apart else ([], labels[:0])
    wrong: list[tuple[float, float, float]] = []
    if len(known):
        found = probe.refitted(features[:], labels, n_classes, seed, known).argmax(2) != labels
        for size in sorted(set(sizes)):
            rounds = torch.tensor([s == size for s in sizes])
            left = ~known[rounds]
            wrong.append((size, float((found[rounds] & left).sum()) / REPEATS, float(left.sum()) / REPEATS))
    slope, spread = slope_of(wrong)
    return [predicted(oa, tested, per_class, factor, slope, spread) for factor in FURTHER]


def parts(labels: Tensor, seed: int) -> tuple[list[float], Tensor]:
    """Parts of the labels: how many a class each has on average, and which (R, n) they are; a class always has one."""
    classes = [(labels == c).nonzero()[:, 0] for c in labels.unique().tolist()]
    sizes: list[float] = []
    known: list[Tensor] = []
    for share in (0.25, 0.5, 0.75):
        counts = [max(1, math.floor(share * len(members))) for members in classes]
        if all(n == len(members) for n, members in zip(counts, classes, strict=True)):
            continue
        size = sum(counts) / len(classes)
        if sizes and size == sizes[-1]:
            continue
        for repeat in range(REPEATS):
            some = torch.zeros(len(labels), dtype=torch.bool)
            for c, (n, members) in enumerate(zip(counts, classes, strict=True)):
                order = permutation(fold(seed, "outlook", repeat, c), len(members))
                some[members[torch.from_numpy(order[:n].copy())]] = True
            sizes.append(size)
            known.append(some)
    return sizes, torch.stack(known) if known else torch.zeros(0, len(labels), dtype=torch.bool)


def slope_of(wrong: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The slope of the error's fall with the labels, on two logarithmic axes, and its standard deviation.

    Args:
        wrong: for each number of labels a class: that number, and how many of how many held-out images were wrong.
    """
    precision, mean = SLOPE_SPREAD**-2, SLOPE
    if len(wrong) > 1:
        x = torch.tensor([math.log(size) for size, _, _ in wrong], dtype=torch.float64)
        y = torch.tensor([math.log((errors + 0.5) / (of + 1)) for _, errors, of in wrong], dtype=torch.float64)
        weight = torch.tensor([errors + 0.5 for _, errors, _ in wrong], dtype=torch.float64)  # 1 / variance of y
        x = x - (weight * x).sum() / weight.sum()
        seen = float((weight * x * x).sum())
        mean = (precision * mean - float((weight * x * y).sum())) / (precision + seen)
        precision += seen
    return max(mean, 0.0), precision**-0.5


def predicted(oa: float, tested: int, per_class: float, factor: float, slope: float, spread: float) -> dict[str, Any]:
    """Overall accuracy at so many times the labels, with its interval."""
    error = max(1 - oa, 0.5 / tested)
    further = error * factor**-slope
    draws = DRAW**2 * (1 / per_class + 1 / (factor * per_class))
    deviation = math.sqrt(math.log(factor) ** 2 * (spread**2 + BEND**2) + draws + 1 / (error * tested) * (1 - oa))
    low, high = (1 - min(1.0, further * math.exp(sign * WITHIN * deviation)) for sign in (1, -1))
    return {"times": factor, "labels_per_class": factor * per_class, "oa": 1 - further, "low": low, "high": high}
