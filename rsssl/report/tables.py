"""One table from any set of results. Standard library only."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsssl.report.results import METRICS, Result, Row, ts_order
from rsssl.report.splits import split_sentences

METRIC_NAMES = {"oa": "Overall accuracy (OA)", "aa": "Average accuracy (AA)", "kappa": "Cohen's kappa"}
PROTOCOLS = {
    "clean": "Protocol clean: the test set chose nothing.",
    "validation": "Protocol validation: for tuning, measured on a part of the pool; the test set was not used.",
    "paper": "Protocol paper: the epoch was chosen on test images, so these figures are optimistic.",
}
FIELDS = ("dataset", "method", "backbone", "evaluate", "protocol", "tta")  # columns of words, where they differ
NONE = "—"


@dataclass
class Cell:
    """One row at one train scale: mean and sample standard deviation over the seeds, as fractions."""

    results: list[Result]  # one per seed
    mean: float
    std: float | None  # None for a single seed
    best: bool = False

    def __str__(self) -> str:
        std = NONE if self.std is None else percent(self.std)
        return f"{percent(self.mean)} ± {std} ({len(self.results)})"


def percent(share: float) -> str:
    return NONE if math.isnan(share) else f"{100 * share:.1f}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def duration(seconds: float | None) -> str:
    """45 s, 21.7 min or 3.2 h."""
    if seconds is None:
        return NONE
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass
class Table:
    """`results` hold one Result per (row, ts, seed), sorted by these; `cells` are keyed by (row, ts)."""

    metric: str
    results: list[Result]
    rows: list[Row]
    columns: list[str]  # train scales, increasing
    cells: dict[tuple[Row, str], Cell]
    seconds: dict[Row, float]  # of pre-training, where known
    notes: list[str]

    @property
    def most_seeds(self) -> int:
        """Of any cell; 0 for an empty table."""
        return max((len(cell.results) for cell in self.cells.values()), default=0)


def build(results: Iterable[Result], metric: str) -> Table:
    """The table of `metric` ("oa", "aa" or "kappa")."""
    results, notes = newest(results)
    cells = {}
    for key, group in itertools.groupby(results, key=lambda r: (r.row, r.ts)):
        seeds = list(group)
        cells[key] = Cell(seeds, *mean_std([r.scores[metric] for r in seeds]))
    mark_best(cells)
    columns = sorted({r.ts for r in results}, key=ts_order)
    # The longest time: a run that found the pre-training finished may have counted only the look-up.
    times = [(r.pretrain_seconds, r.row) for r in results if r.pretrain_seconds]
    seconds = {row: time for time, row in sorted(times)}
    return Table(
        metric, results, sorted({r.row for r in results}), columns, cells, seconds, notes + comparability(cells)
    )


def newest(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """Of several results for one (row, ts, seed) the one that finished last, and notes that say so; a run's own before
    what another run found as a part."""
    chosen: dict[tuple[Row, str, int], Result] = {}
    repeated: dict[str, int] = defaultdict(int)
    for r in sorted(results, key=lambda r: (not r.part, r.finished, str(r.path))):
        old = chosen.get((r.row, r.ts, r.seed))
        # Every run measures the baselines anew: that they agree is no news.
        if (
            old
            and not old.part
            and not (r.row.baseline and all(f"{r.scores[m]:.5f}" == f"{old.scores[m]:.5f}" for m in METRICS))
        ):
            settings = "" if old.config_hash == r.config_hash else ", with other settings (config_hash)"
            repeated[f"{r.row.method} on {r.row.dataset} ({r.row.evaluate}){settings}"] += 1
        chosen[r.row, r.ts, r.seed] = r
    order = sorted(chosen.values(), key=lambda r: (r.row, ts_order(r.ts), r.seed))
    return order, [
        f"{results_of}: {plural(times, 'result')} repeated for the same ts and seed; the newest counts."
        for results_of, times in sorted(repeated.items())
    ]


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divided by n - 1; None for one value)."""
    n = len(values)
    mean = math.fsum(values) / n
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None


def mark_best(cells: dict[tuple[Row, str], Cell]) -> None:
    """The best of each column, among rows that may be compared: one dataset, one protocol. Ties as printed."""
    columns: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for (row, ts), cell in cells.items():
        if not math.isnan(cell.mean):
            columns[row.dataset, row.protocol, ts].append(cell)
    for column in columns.values():
        top = max(round(100 * cell.mean, 1) for cell in column)
        for cell in column:
            cell.best = round(100 * cell.mean, 1) == top


def caption(table: Table) -> str:
    """What the numbers are, over how many seeds, what the test set was used for, how large it was."""
    sizes: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for r in table.results:
        sizes[r.row.dataset].add((len(r.classes), r.n_test))
    seeds = [len(cell.results) for cell in table.cells.values()]
    count = plural(seeds[0], "seed") if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
    unit = "times 100" if table.metric == "kappa" else "in percent"
    figures = f"mean ± sample standard deviation over {count} (their number in brackets)"
    sentences = [
        f"{METRIC_NAMES[table.metric]} {unit}: {figures if table.most_seeds > 1 else 'of one seed, so no spread'}.",
        "ts is the number of labelled images per class, a fraction of the pool, or all of it.",
    ]
    same = constants(table.rows)
    settings = [f"{name} {value}" for name, value in same.items() if name != "tta"]
    settings += ["test-time augmentation"] if same.get("tta") else []
    if settings:
        sentences.append(f"All rows: {', '.join(settings)}.")
    sentences += [PROTOCOLS.get(p, f"Protocol {p}.") for p in sorted({row.protocol for row in table.rows})]
    sentences += split_sentences(table.results)
    for dataset, different in sorted(sizes.items()):
        each = " or ".join(f"{c} classes, {n:,} test images" for c, n in sorted(different))
        sentences.append(f"{dataset}: {each}.")
    return " ".join(sentences)


def comparability(cells: dict[tuple[Row, str], Cell]) -> list[str]:
    """Warnings: different test sets within a dataset, different seeds within a column."""
    splits: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    columns: dict[tuple, set[frozenset[int]]] = defaultdict(set)
    for (row, ts), cell in cells.items():
        columns[row.dataset, ts_order(ts), ts].add(frozenset(r.seed for r in cell.results))
        for r in cell.results:
            splits[row.dataset][r.split_hash].add(row.method)
    notes = []
    for dataset, hashes in sorted(splits.items()):
        if len(hashes) > 1:
            each = "; ".join(f"{h[:8]}: {', '.join(sorted(m))}" for h, m in sorted(hashes.items()))
            notes.append(f"Warning: {dataset} was split in different ways (split_hash {each}): not comparable.")
    for (dataset, _, ts), seeds in sorted(columns.items()):
        if len(seeds) > 1:
            notes.append(f"{dataset}, ts={ts}: the rows have different seeds, hence different labelled images.")
    return notes


def constants(rows: Iterable[Row]) -> dict[str, str | bool]:
    """Fields of one value over all rows: they stand in the caption, not in a column."""
    rows = list(rows)
    values = {name: {getattr(row, name) for row in rows} - {""} for name in FIELDS if name != "method"}
    return {name: v.pop() for name, v in values.items() if len(v) == 1}


def labels(rows: Iterable[Row]) -> dict[Row, str]:
    """Each row's method, with the pre-training's data, images, epochs or hash where rows would else be equal."""
    rows, names = list(rows), {}
    for row in rows:
        group = [other for other in rows if other[:7] == row[:7]]
        texts = {
            "pretrain_dataset": f"on {row.pretrain_dataset or 'unknown data'}",
            "pretrain_images": f"{row.pretrain_images:,} images" if row.pretrain_images else "images unknown",
            "pretrain_epochs": f"{row.pretrain_epochs} epochs" if row.pretrain_epochs else "epochs unknown",
        }
        parts = [text for name, text in texts.items() if len({getattr(other, name) for other in group}) > 1]
        if any(other != row and other[7:10] == row[7:10] for other in group):
            parts.append(row.artifact[:8] or "no artifact")
        names[row] = row.method + (f" ({', '.join(parts)})" if parts else "")
    return names
