"""Is a row of a table better than another? Paired over the seeds of both, which draw the same labelled images for both.

An interval covers chance in the labelled images and in the training. It does not cover chance in the test images, which
are the same for all seeds. Numpy and the standard library only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rsssl.report.results import Row, ts_order
from rsssl.report.tables import Cell, Table, mean_std

CONFIDENCE = 0.95  # of intervals
POWER = 0.8  # at which a difference is called detectable


@dataclass(frozen=True)
class Comparison:
    """A row beside the best of its column; differences in points (hundredths of the metric), below 0 where it is worse.

    Args:
        ts: the column.
        best: the row that is compared with, the best of the column.
        row: the other.
        seeds: that both have, on the same test images.
        mean: of the differences.
        low: end of the interval of the mean by the paired t distribution; None for a single seed.
        high: the other end.
        p: of the exact two-sided signed-rank test (Wilcoxon 1945).
        least_p: the smallest that so many seeds can give.
        detectable: the difference that a paired t test of so many seeds finds in 8 of 10 cases, given the spread that
            the differences have.
    """

    ts: str
    best: Row
    row: Row
    seeds: int
    mean: float
    low: float | None
    high: float | None
    p: float
    least_p: float
    detectable: float | None


def comparisons(table: Table, dataset: str) -> list[Comparison]:
    """Each row of a dataset beside the best one of its column and protocol, where they share seeds and test images."""
    columns: dict[tuple[str, str], list[tuple[Row, Cell]]] = defaultdict(list)
    for (row, ts), cell in table.cells.items():
        if row.dataset == dataset and not math.isnan(cell.mean):
            columns[row.protocol, ts].append((row, cell))
    found = []
    for (_, ts), column in sorted(columns.items(), key=lambda item: (item[0][0], ts_order(item[0][1]))):
        best, first = max(column, key=lambda pair: pair[1].mean)
        for row, cell in sorted(column, key=lambda pair: -pair[1].mean):
            if row != best and (differences := paired(cell, first, table.metric)):
                found.append(Comparison(ts, best, row, len(differences), *compared(differences)))
    return found


def paired(cell: Cell, other: Cell, metric: str) -> list[float]:
    """The differences in points at the seeds that both have on the same test images."""
    theirs = {(r.seed, r.split_hash): r.scores[metric] for r in other.results}
    both = [(r.scores[metric], theirs[key]) for r in cell.results if (key := (r.seed, r.split_hash)) in theirs]
    return [100 * (a - b) for a, b in both if not math.isnan(a - b)]


def compared(differences: Sequence[float]) -> tuple[float, float | None, float | None, float, float, float | None]:
    """The fields `mean` to `detectable` of a `Comparison`."""
    n, (mean, std) = len(differences), mean_std(differences)
    p, least = signed_rank(differences)
    if std is None:
        return mean, None, None, p, least, None
    error = std / math.sqrt(n)
    half = t_quantile(n - 1) * error
    return mean, mean - half, mean + half, p, least, detectable_shift(n - 1) * error


def signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """The exact two-sided p of Wilcoxon's signed-rank test, and the smallest that so many differences can give.

    Differences of zero are left out (as Wilcoxon does), equal ones share their mean rank; the distribution is counted
    over all signs.
    """
    sizes = [round(abs(d), 9) for d in differences]  # equal where only the last digits of a sum differ
    pairs = [(size, d) for size, d in zip(sizes, differences, strict=True) if size]
    n = len(pairs)
    if not n:
        return 1.0, 1.0
    ordered = sorted(size for size, _ in pairs)
    # Twice the mean rank is a whole number: positions are counted from 1.
    doubled = [2 * ordered.index(size) + ordered.count(size) + 1 for size, _ in pairs]
    ways = np.zeros(sum(doubled) + 1)
    ways[0] = 1
    for rank in doubled:
        ways[rank:] += ways[:-rank].copy()
    positive = sum(rank for rank, (_, d) in zip(doubled, pairs, strict=True) if d > 0)
    extreme = min(positive, sum(doubled) - positive)
    return min(1.0, 2 * float(ways[: extreme + 1].sum() / ways.sum())), min(1.0, 2.0 ** (1 - n))


def upper_tail(t: float, df: int, shift: float = 0.0) -> float:
    """P(T > t) for T = (Z + shift) / S of the noncentral t distribution: Z is standard normal and df * S^2 of the chi
    squared distribution. Simpson's rule over S."""
    end = 1 + 12 / math.sqrt(2 * df)
    s = np.linspace(0, end, 2001)[1:]
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + (df - 1) * np.log(s) - df * s**2 / 2
    above = np.array([0.5 * math.erfc((t * x - shift) / math.sqrt(2)) for x in s])
    values = np.exp(log_density) * above
    at_zero = math.sqrt(2 / math.pi) * 0.5 * math.erfc(-shift / math.sqrt(2)) if df == 1 else 0.0
    weights = np.where(np.arange(1, 2001) % 2 == 1, 4.0, 2.0)
    weights[-1] = 1.0
    return float((at_zero + weights @ values) * end / 2000 / 3)


def rising(function: Callable[[float], float], value: float, high: float) -> float:
    """Where a function that rises from 0 to `high` reaches a value, by halving."""
    low = 0.0
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return (low + high) / 2


@cache
def t_quantile(df: int) -> float:
    """What a t distributed number exceeds in (1 - CONFIDENCE) / 2 of all cases."""
    return rising(lambda t: 1 - upper_tail(t, df), (1 + CONFIDENCE) / 2, 20.0)


@cache
def detectable_shift(df: int) -> float:
    """The mean, in standard errors, with which a two-sided t test finds a difference with probability POWER."""
    bound = t_quantile(df)
    return rising(lambda shift: upper_tail(bound, df, shift) + upper_tail(bound, df, -shift), POWER, 40.0)
