"""Accuracy and area of a class map, estimated from reference samples. Numpy only.

Pixel counting is biased: a class that is mapped too often has too large an area. The estimators here correct each
class's area, and the accuracies, for what the samples say of the errors, and say how sure that is.

Olofsson, Foody, Herold, Stehman, Woodcock, Wulder (2014): Good practices for estimating area and assessing accuracy of
land change. Remote Sensing of Environment 148, 42-57; equation numbers are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Z95 = 1.96  # the paper's factor from a standard error to half a 95 % confidence interval


@dataclass(frozen=True)
class Estimate:
    """What `estimate` returns for K classes; fractions in 0..1, areas in the unit of the mapped areas.

    The 95 % confidence interval of each value is the value plus and minus `Z95` times its standard error (`*_se`). nan
    is what the samples do not tell; `unsampled` and `single` say why.
    """

    proportions: np.ndarray  # (K, K) of the sampled classes' area: mapped as the row's class, in truth the column's
    overall: float  # overall accuracy
    overall_se: float
    users: np.ndarray  # (K,) of what is mapped as the class, the share that is it
    users_se: np.ndarray
    producers: np.ndarray  # (K,) of what is the class, the share that is mapped as it
    producers_se: np.ndarray
    areas: np.ndarray  # (K,) of the class in truth
    areas_se: np.ndarray
    covered: float  # the share of the mapped area whose classes have samples: what all figures but `users` speak of
    unsampled: tuple[int, ...]  # classes with mapped area and no sample
    single: tuple[int, ...]  # classes with mapped area and one sample, which has no variance, nor has any sum with it


def estimate(counts: np.ndarray, mapped: np.ndarray) -> Estimate:
    """Accuracies and areas by stratified estimation, the classes of the map being the strata.

    Valid for samples drawn at random, either so many from each class of the map or from the whole of it. They count by
    the area of their class of the map, not by their number, so that a rare class may be sampled densely.

    A class of the map without a sample could be anything. Overall accuracy, producer's accuracies and areas are then
    those of the other classes' part of the map (weights renormalised over it; `covered` is its share of the area), and
    all figures of the class itself are nan: most of its area lies where nothing is known. A class with one sample has
    no variance: its sample counts, but the standard errors that it enters are nan.

    Args:
        counts: (K, K) numbers of samples; row = class in the map, column = class in the reference.
        mapped: (K,) area of each class in the map, in any unit (hectares, pixels).

    Raises:
        ValueError: for shapes that do not fit, negative numbers, or no sample in any class that has an area.
    """
    n, area = np.asarray(counts, np.float64), np.asarray(mapped, np.float64)
    if n.ndim != 2 or n.shape[0] != n.shape[1] or area.shape != n.shape[:1]:
        raise ValueError(f"counts {n.shape} and mapped {area.shape} must be (K, K) and (K,)")
    if (n < 0).any() or not (np.isfinite(area).all() and (area >= 0).all()):
        raise ValueError("counts and mapped areas must not be negative")
    rows = n.sum(1)  # n_i.
    sampled = (rows > 0) & (area > 0)
    if not sampled.any():
        raise ValueError("there is no sample in any class of the map")
    total = area[sampled].sum()
    weight = np.where(sampled, area, 0) / total  # W_i
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(rows[:, None] > 0, n / rows[:, None], 0)  # n_ij / n_i.
        # Of each n_ij / n_i.; 0 / 0 where the class has one sample. Classes that do not count have none.
        variance = np.where(weight[:, None] > 0, share * (1 - share) / (rows[:, None] - 1), 0)
        p = weight[:, None] * share  # eq. 4
        columns = p.sum(0)  # eq. 9
        users = np.where(rows > 0, p.diagonal() / weight, np.nan)  # eq. 2
        no_area = (rows > 0) & (weight == 0)
        users = np.where(no_area, share.diagonal(), users)  # a class without area still has its samples
        users_se = np.sqrt(np.where(rows > 1, users * (1 - users) / (rows - 1), np.nan))  # eq. 6
        producers = p.diagonal() / columns  # eq. 3; nan where the reference does not have the class
        spread = weight[:, None] ** 2 * variance  # (K, K)
        diagonal = spread.diagonal()
        others = np.where(np.eye(len(n), dtype=bool), 0, spread).sum(0)
        producers_se = np.sqrt((1 - producers) ** 2 * diagonal + producers**2 * others) / columns  # eq. 7
    overall_se = float(np.sqrt(diagonal.sum()))  # eq. 5
    areas, areas_se = total * columns, total * np.sqrt(spread.sum(0))  # eq. 9 to 11
    unsampled, single = (rows == 0) & (area > 0), sampled & (rows == 1)
    for figures in (producers, producers_se, areas, areas_se):
        figures[unsampled] = np.nan
    per_class = users, users_se, producers, producers_se, areas, areas_se
    covered = float(total / area.sum())
    lacking = (tuple(np.flatnonzero(chosen).tolist()) for chosen in (unsampled, single))
    return Estimate(p, float(p.trace()), overall_se, *per_class, covered, *lacking)
