"""How far another pre-training seed moves question 1: what `signals.py --pretrain-seeds 0,1` adds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

import signals
from runs import SEEDS
from tables import Rows, grouped, markdown, rank_correlation, there, values

TS = 20


def by_seed(rows: Rows) -> dict[str, float]:
    """The mean over the draws of labels, with 20 labels a class, of each pre-training seed that has them all."""
    cells = grouped([r for r in rows if r["ts"] == str(TS)], "pretrain_seed")
    return {seed: mean(values(found)) for (seed,), found in sorted(cells.items()) if len(found) == len(SEEDS)}


def root_mean_square(numbers: Iterable[float]) -> float:
    """Of deviations: the deviation whose square is their mean square."""
    return mean(v**2 for v in numbers) ** 0.5


def seeds_table(folder: Path, start: str) -> str:
    """From one start, each method that several seeds were trained of: the mean of each seed, and two deviations."""
    rows = signals.table(signals.planned(folder)).find(start=start)
    cells = {c: found for c, found in grouped(rows, "method", "network").items() if len(by_seed(found)) > 1}
    seeds = sorted({seed for found in cells.values() for seed in by_seed(found)})
    lines, orders, apart = [], {}, []
    for (method, network), found in sorted(cells.items(), key=lambda c: -mean(by_seed(c[1]).values())):
        means = by_seed(found)
        draws = root_mean_square(stdev(values(found, ts=TS, pretrain_seed=seed)) for seed in means)
        shown = [f"{means[seed]:.1f}" if seed in means else "-" for seed in seeds]
        name = "(the start)" if method == "none" else method
        lines.append([name, network, *shown, f"{stdev(means.values()):.1f}", f"{draws:.1f}"])
        if method != "none":
            orders[method, network] = means
            apart.append(stdev(means.values()))
    asked = signals.networks(signals.planned(folder, signals.PRETRAIN_SEEDS))
    todo = [n for n in asked if n.says["start"] == start and n.says["pretrain_seed"] != 0]
    head = ["method", "network", *(f"seed {seed}" for seed in seeds), "± of seeds", "± of draws"]
    return markdown(head, lines, 2) + agreement(orders, apart) + "\n\n" + there(rows, todo, ["method", "network"])


def agreement(orders: dict[tuple[str, ...], dict[str, float]], apart: list[float]) -> str:
    """How far the seeds put the methods into the same order."""
    if len(orders) < 3:
        return ""
    text = f"\n\nDeviation over seeds of a method's mean: {root_mean_square(apart):.1f} points (root mean square)."
    for one, other in combinations(sorted({seed for means in orders.values() for seed in means}), 2):
        both = [means for means in orders.values() if one in means and other in means]
        if len(both) > 2:
            rank = rank_correlation([means[one] for means in both], [means[other] for means in both])
            text += f" Rank correlation of the {len(both)} methods' order, seeds {one} and {other}: {rank:+.2f}."
    return text
