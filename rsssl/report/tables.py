"""One table from any set of results, and its Markdown, LaTeX and CSV forms. Standard library only."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsssl.report.results import METRICS, Result, Row, ts_order

METRIC_NAMES = {"oa": "Overall accuracy (OA)", "aa": "Average accuracy (AA)", "kappa": "Cohen's kappa"}
PROTOCOLS = {
    "clean": "Protocol clean: the test set chose nothing.",
    "validation": "Protocol validation: for tuning, measured on a part of the pool; the test set was not used.",
    "paper": "Protocol paper: the epoch was chosen on test images, so these figures are optimistic.",
}
HEADINGS = {
    "dataset": "Dataset",
    "method": "Method",
    "backbone": "Backbone",
    "evaluate": "Evaluate",
    "protocol": "Protocol",
    "tta": "TTA",
}
NONE = "—"


@dataclass
class Cell:
    """One row at one train scale: mean and sample standard deviation over the seeds, as fractions."""

    mean: float
    std: float | None  # None for a single seed
    n: int
    best: bool = False

    def __str__(self) -> str:
        mean = NONE if math.isnan(self.mean) else f"{100 * self.mean:.1f}"
        std = NONE if self.std is None or math.isnan(self.std) else f"{100 * self.std:.1f}"
        return f"{mean} ± {std} ({self.n})"


@dataclass
class Table:
    """`results` hold one Result per (row, ts, seed); `cells` are keyed by (row, ts as text)."""

    metric: str
    results: list[Result]
    rows: list[Row]
    columns: list[str]  # train scales as text, increasing
    cells: dict[tuple[Row, str], Cell]
    seconds: dict[Row, float]  # of pre-training, where known
    caption: list[str]  # sentences
    notes: list[str]


def build(results: Iterable[Result], metric: str) -> Table:
    """The table of `metric` ("oa", "aa" or "kappa")."""
    kept, notes = newest(results)
    values: dict[tuple[Row, str], list[float]] = defaultdict(list)
    seconds: dict[Row, float] = {}
    for r in kept:
        values[r.row, str(r.ts)].append(r.scores[metric])
        if r.pretrain_seconds:  # the longest: a run that found the artefact finished may have counted only the look-up
            seconds[r.row] = max(seconds.get(r.row, 0.0), r.pretrain_seconds)
    cells = {key: Cell(*mean_std(v), len(v)) for key, v in values.items()}
    mark_best(cells)
    rows = sorted({r.row for r in kept})
    columns = sorted({str(r.ts) for r in kept}, key=ts_order)
    return Table(metric, kept, rows, columns, cells, seconds, caption(kept, metric), notes + comparability(kept))


def newest(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """Of several results for one (row, ts, seed) the one that finished last, and notes that say so."""
    kept: dict[tuple[Row, str, int], Result] = {}
    repeated: dict[str, int] = defaultdict(int)
    for r in sorted(results, key=lambda r: (r.finished, str(r.path))):
        old = kept.get((r.row, str(r.ts), r.seed))
        # Every run measures the baselines anew: that they agree is no news.
        if old and not (r.row.baseline and all(f"{r.scores[m]:.5f}" == f"{old.scores[m]:.5f}" for m in METRICS)):
            settings = "" if old.config_hash == r.config_hash else ", with other settings (config_hash)"
            repeated[f"{r.row.method} on {r.row.dataset} ({r.row.evaluate}){settings}"] += 1
        kept[r.row, str(r.ts), r.seed] = r
    order = sorted(kept.values(), key=lambda r: (r.row, ts_order(str(r.ts)), r.seed))
    return order, [
        f"{what}: {times} result{'s' if times > 1 else ''} repeated for the same ts and seed; the newest counts."
        for what, times in sorted(repeated.items())
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


def caption(results: Sequence[Result], metric: str) -> list[str]:
    """Sentences: what the numbers are, over how many seeds, what the test set was used for, how large it was."""
    rows = {r.row for r in results}
    seeds: dict[tuple[Row, str], int] = defaultdict(int)
    sizes: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for r in results:
        seeds[r.row, str(r.ts)] += 1
        sizes[r.row.dataset].add((len(r.classes), r.n_test))
    low, high = min(seeds.values()), max(seeds.values())
    count = f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"
    unit = "times 100" if metric == "kappa" else "in percent"
    sentences = [
        f"{METRIC_NAMES[metric]} {unit}: mean ± sample standard deviation over {count} (their number in brackets).",
        "ts is the number of labelled images per class, a fraction of the pool, or all of it.",
    ]
    fixed = [f"{name} {next(iter(v))}" for name, v in constants(rows).items() if name != "tta"]
    if constants(rows).get("tta") == {True}:
        fixed.append("test-time augmentation")
    if fixed:
        sentences.append(f"All rows: {', '.join(fixed)}.")
    sentences += [PROTOCOLS.get(p, f"Protocol {p}.") for p in sorted({row.protocol for row in rows})]
    for dataset, found in sorted(sizes.items()):
        each = " or ".join(f"{c} classes, {n:,} test images" for c, n in sorted(found))
        sentences.append(f"{dataset}: {each}.")
    return sentences


def comparability(results: Sequence[Result]) -> list[str]:
    """Warnings: different test sets within a dataset, different seeds within a column."""
    splits: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    seeds: dict[tuple[str, str], dict[Row, set[int]]] = defaultdict(lambda: defaultdict(set))
    for r in results:
        splits[r.row.dataset][r.split_hash].add(r.row.method)
        seeds[r.row.dataset, str(r.ts)][r.row].add(r.seed)
    notes = []
    for dataset, hashes in sorted(splits.items()):
        if len(hashes) > 1:
            each = "; ".join(f"{h[:8]}: {', '.join(sorted(m))}" for h, m in sorted(hashes.items()))
            notes.append(f"Warning: {dataset} was split in different ways (split_hash {each}): not comparable.")
    for (dataset, ts), rows in sorted(seeds.items(), key=lambda item: (item[0][0], ts_order(item[0][1]))):
        if len({frozenset(s) for s in rows.values()}) > 1:
            notes.append(f"{dataset}, ts={ts}: the rows have different seeds, hence different labelled images.")
    return notes


def constants(rows: Iterable[Row]) -> dict[str, set]:
    """Fields of one value over all rows: they stand in the caption, not in a column."""
    rows = list(rows)
    values = {name: {getattr(row, name) for row in rows} - {""} for name in HEADINGS if name != "method"}
    return {name: v for name, v in values.items() if len(v) == 1}


def labels(rows: Iterable[Row]) -> dict[Row, str]:
    """Each row's method, with the pre-training's data, images, epochs or hash where rows would else be equal."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[:7]].append(row)
    found = {}
    for group in groups.values():
        for row in group:
            parts = [
                text
                for name, text in (
                    ("pretrain_dataset", f"on {row.pretrain_dataset or 'unknown data'}"),
                    ("pretrain_images", f"{row.pretrain_images:,} images" if row.pretrain_images else "images unknown"),
                    ("pretrain_epochs", f"{row.pretrain_epochs} epochs" if row.pretrain_epochs else "epochs unknown"),
                )
                if len({getattr(other, name) for other in group}) > 1
            ]
            if any(other != row and other[7:10] == row[7:10] for other in group):
                parts.append(row.artifact[:8] or "no artifact")
            found[row] = row.method + (f" ({', '.join(parts)})" if parts else "")
    return found


def grid(table: Table) -> tuple[list[str], list[tuple[Row, list[str]]]]:
    """The table as text: headings, then per row its fields, cells and pre-training time."""
    fixed, names = constants(table.rows), labels(table.rows)
    fields = [name for name in HEADINGS if name not in fixed]
    headings = [HEADINGS[name] for name in fields] + [f"ts={ts}" for ts in table.columns]
    if table.seconds:
        headings.append("Pre-training")
    lines = []
    for row in table.rows:
        words = {"method": names[row], "backbone": row.backbone or NONE, "tta": "yes" if row.tta else "no"}
        shown = row._asdict() | words
        line = [str(shown[name]) for name in fields]
        line += [str(table.cells.get((row, ts), "")) for ts in table.columns]
        if table.seconds:
            line.append(duration(table.seconds.get(row)))
        lines.append((row, line))
    return headings, lines


def is_best(table: Table, row: Row, heading: str) -> bool:
    cell = table.cells.get((row, heading.removeprefix("ts=")))
    return heading.startswith("ts=") and cell is not None and cell.best


def duration(seconds: float | None) -> str:
    """45 s, 21.7 min or 3.2 h."""
    if seconds is None:
        return NONE
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def markdown(table: Table, figures: Sequence[str] = ()) -> str:
    """The whole report: table, caption, notes, and the figures by file name."""
    headings, lines = grid(table)

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    out = ["# Few-label scene classification", "", line(headings)]
    out.append(line("---:" if h.startswith("ts=") or h == "Pre-training" else "---" for h in headings))
    for row, texts in lines:
        safe = [re.sub(r"([\\|<*`])", r"\\\1", text).replace("\n", " ") for text in texts]
        out.append(line(f"**{t}**" if is_best(table, row, h) else t for h, t in zip(headings, safe, strict=True)))
    out += ["", " ".join(table.caption), ""]
    out += [f"- {note}" for note in table.notes]
    out += ["", *(f"![{name.removesuffix('.png')}]({name})\n" for name in figures)] if figures else []
    return "\n".join(out).rstrip() + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",
    "*": "{*}",
    "—": "---",
    "±": r"$\pm$",
    "\n": " ",
}


def tex_escape(text: str) -> str:
    """Text as LaTeX prints it, with any font encoding."""
    return "".join(LATEX.get(c, c) for c in text)


def latex(table: Table) -> str:
    r"""A table environment for \input; the document needs the package booktabs."""
    headings, lines = grid(table)
    right = [h.startswith("ts=") or h == "Pre-training" for h in headings]
    out = [
        r"% Written by rsssl-report. In the preamble: \usepackage{booktabs}; in the text: \input{report.tex}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{tex_escape(' '.join(table.caption))}}}",
        rf"\begin{{tabular}}{{@{{}}{''.join('r' if r else 'l' for r in right)}@{{}}}}",
        r"\toprule",
        " & ".join(map(tex_escape, headings)) + r" \\",
    ]
    above: str | None = None
    for row, texts in lines:
        out += [r"\midrule"] if row.dataset != above else []
        above = row.dataset
        safe = [
            rf"\textbf{{{tex_escape(t)}}}" if is_best(table, row, h) else tex_escape(t)
            for h, t in zip(headings, texts, strict=True)
        ]
        out.append(" & ".join(safe) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    out += [f"% {' '.join(note.splitlines())}" for note in table.notes]
    return "\n".join(out) + "\n"


def long_csv(table: Table) -> str:
    """One line per row x ts x seed x metric; values as in results.json (fractions)."""
    lines = [
        [
            *r.row,
            str(r.ts),
            f"{r.labels_per_class:g}",
            r.seed,
            m,
            r.scores[m],
            r.n_train,
            r.n_test,
            len(r.classes),
            r.pretrain_seconds or "",
            r.split_hash,
            r.path,
        ]
        for r in table.results
        for m in METRICS
    ]
    return to_csv(
        [
            *Row._fields,
            "ts",
            "labels_per_class",
            "seed",
            "metric",
            "value",
            "n_train",
            "n_test",
            "n_classes",
            "pretrain_seconds",
            "split_hash",
            "file",
        ],
        lines,
    )


def summary_csv(table: Table) -> str:
    """One line per row x ts x metric: mean, sample standard deviation (empty for one seed), number of seeds."""
    values: dict[tuple[Row, str, str], list[float]] = defaultdict(list)
    for r in table.results:
        for m in METRICS:
            values[r.row, str(r.ts), m].append(r.scores[m])
    lines: list[list] = []
    for (row, ts, metric), v in values.items():
        mean, std = mean_std(v)
        lines.append([*row, ts, metric, mean, "" if std is None else std, len(v), table.seconds.get(row, "")])
    return to_csv([*Row._fields, "ts", "metric", "mean", "std", "n", "pretrain_seconds"], lines)


def to_csv(headings: Sequence[str], lines: Iterable[Sequence]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(lines)
    return out.getvalue()
