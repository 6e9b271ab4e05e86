"""A table as it is printed: its lines of text, Markdown, LaTeX and CSV. Standard library only."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rsssl.report.datasets import recorded
from rsssl.report.results import METRICS, Row
from rsssl.report.tables import FIELDS, NONE, Table, caption, constants, duration, labels, mean_std


class Line(NamedTuple):
    """A row as it is printed: for each column a text, and whether it is the best of its column."""

    row: Row
    cells: list[tuple[str, bool]]


def grid(table: Table) -> tuple[list[str], int, list[Line]]:
    """The table as text: its headings; how many columns of words come before those of numbers; a line for each row."""
    same, names = constants(table.rows), labels(table.rows)
    fields = [name for name in FIELDS if name not in same]
    headings = ["TTA" if name == "tta" else name.capitalize() for name in fields]
    headings += [f"ts={ts}" for ts in table.columns] + (["Pre-training"] if table.seconds else [])
    lines = []
    for row in table.rows:
        words = row._asdict() | {"method": names[row], "backbone": row.backbone or NONE}
        words["tta"] = "yes" if row.tta else "no"
        line = Line(row, [(words[name], False) for name in fields])
        for cell in (table.cells.get((row, ts)) for ts in table.columns):
            line.cells.append(("", False) if cell is None else (str(cell), cell.best))
        if table.seconds:
            line.cells.append((duration(table.seconds.get(row)), False))
        lines.append(line)
    return headings, len(fields), lines


def markdown(table: Table, figures: Sequence[str] = ()) -> str:
    """The whole report: table, caption, notes, and the figures by file name."""
    headings, words, lines = grid(table)
    rules = ["---"] * words + ["---:"] * (len(headings) - words)
    rows = [headings, rules]
    for line in lines:
        cells = [(re.sub(r"([\\|<*`])", r"\\\1", text).replace("\n", " "), best) for text, best in line.cells]
        rows.append([f"**{text}**" if best else text for text, best in cells])
    out = ["# Few-label scene classification", "", *(f"| {' | '.join(row)} |" for row in rows)]
    out += ["", caption(table), "", *(f"- {note}" for note in table.notes)]
    out += ["", *(f"![{name.removesuffix('.png')}]({name})\n" for name in figures)]
    return "\n".join(out).rstrip() + "\n"


LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "*": "{*}"}
    | {"—": "---", "±": r"$\pm$", "\n": " "}
)


def latex(table: Table) -> str:
    r"""A table environment for \input; the document needs the package booktabs."""
    headings, words, lines = grid(table)
    out = [
        r"% Written by rsssl-report. In the preamble: \usepackage{booktabs}; in the text: \input{report.tex}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{caption(table).translate(LATEX)}}}",
        rf"\begin{{tabular}}{{@{{}}{'l' * words}{'r' * (len(headings) - words)}@{{}}}}",
        r"\toprule",
        " & ".join(heading.translate(LATEX) for heading in headings) + r" \\",
    ]
    for _, group in itertools.groupby(lines, key=lambda line: line.row.dataset):
        out.append(r"\midrule")
        for line in group:
            cells = [(text.translate(LATEX), best) for text, best in line.cells]
            out.append(" & ".join(rf"\textbf{{{text}}}" if best else text for text, best in cells) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    out += [f"% {' '.join(note.splitlines())}" for note in table.notes]
    return "\n".join(out) + "\n"


def long_csv(table: Table) -> str:
    """One line per row x ts x seed x metric; values as in results.json (fractions)."""
    lines = [
        r.row._asdict()
        | {"ts": r.ts, "labels_per_class": f"{r.labels_per_class:g}", "seed": r.seed, "metric": metric, "value": value}
        | {"n_train": r.n_train, "n_test": r.n_test, "n_classes": len(r.classes)}
        | {"pretrain_seconds": r.pretrain_seconds or "", "split_hash": r.split_hash, "file": r.path}
        | {"dataset_root": recorded(r).get("root", "")}
        for r in table.results
        for metric, value in {**r.scores, **r.trust}.items()
    ]
    return to_csv(list(lines[0]), [list(line.values()) for line in lines])


def summary_csv(table: Table) -> str:
    """One line per row x ts x metric: mean, sample standard deviation (empty for one seed), number of seeds."""
    lines: list[list] = []
    for (row, ts), cell in table.cells.items():
        for metric in (*METRICS, *(key for key in cell.results[0].trust if all(key in r.trust for r in cell.results))):
            mean, std = mean_std([(r.scores | r.trust)[metric] for r in cell.results])
            lines.append(
                [*row, ts, metric, mean, "" if std is None else std, len(cell.results), table.seconds.get(row, "")]
            )
    return to_csv([*Row._fields, "ts", "metric", "mean", "std", "n", "pretrain_seconds"], lines)


def to_csv(headings: Sequence[str], lines: Iterable[Sequence]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(lines)
    return out.getvalue()
