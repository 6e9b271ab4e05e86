"""`rsssl-report RUNS_DIR...`: one table and its figures from any set of finished runs. Imports no torch."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsssl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from rsssl.report.results import Result
    from rsssl.report.tables import Table

DESCRIPTION = """\
Reads every results.json below the folders and makes one table: a row for each method and for the baselines beside
it, a column for each ts, mean and sample standard deviation over the seeds. Prints it, and writes report.md, report.csv
(every number), report_summary.csv, report.tex, label_efficiency.png and confusion_<dataset>.png.
"""
EXAMPLES = """\
  rsssl-report multirun/2025-01-31/12-00-00
  rsssl-report runs/simclr runs/jigsaw --metric aa --out paper/
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "rsssl-report",
        description=DESCRIPTION,
        epilog=f"Examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS_DIR", help="folders that hold runs, at any depth")
    parser.add_argument("--metric", choices=("oa", "aa", "kappa"), default="oa", help="what is shown (oa)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (the first RUNS_DIR)")
    parser.add_argument("--no-figures", action="store_true", help="no PNG files; matplotlib is not needed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `rsssl-report`; returns the exit code (2: something the user can put right)."""
    args = arguments(argv)
    try:
        report(args.runs, args.metric, args.out or args.runs[0], figures=not args.no_figures)
    except UserError as error:
        print(f"rsssl: {error}", file=sys.stderr)
        return 2
    return 0


def report(folders: Sequence[Path], metric: str, out: Path, figures: bool = True) -> list[Path]:
    """Reads, writes the files, prints the table and the files' paths, which it returns.

    Raises:
        UserError: when a folder is missing, no results are found, or `out` cannot be written.
    """
    from rsssl.report import tables

    results, warnings = collect(folders)
    table = tables.build(results, metric)
    table.notes += warnings
    images = draw(table) if figures else {}
    files = {
        "report.md": tables.markdown(table, list(images)).encode(),
        "report.csv": tables.long_csv(table).encode(),
        "report_summary.csv": tables.summary_csv(table).encode(),
        "report.tex": tables.latex(table).encode(),
        **images,
    }
    for name, data in files.items():
        write(out / name, data)
    show(table, [out / name for name in files])
    return [out / name for name in files]


def collect(folders: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Every result below the folders, and warnings that name what was left out."""
    from rsssl.report.results import find, read

    for folder in folders:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}: type rsssl-report with a folder that holds runs, such as multirun/")
    paths, complaints = find(folders)
    results: list[Result] = []
    for path in paths:
        try:
            found, left_out = read(path)
        except ValueError as error:
            complaints.append(f"{path} {error}; skipped")
            continue
        results += found
        complaints += left_out
    warnings = [f"Warning: {complaint}." for complaint in complaints]
    if not results:
        where = ", ".join(map(str, folders))
        raise UserError(
            "\n".join([f"there are no results in {where}", *warnings])
            + "\nmake some first, type for example: rsssl-run --multirun ts=5,20 seed=0,1,2 hydra.sweep.dir="
            + str(folders[0])
        )
    return results, warnings


def draw(table: Table) -> dict[str, bytes]:
    """File names and PNGs. Adds a note where seeds with other classes are left out of a confusion matrix."""
    from rsssl.report import figures
    from rsssl.report.tables import METRIC_NAMES

    made = {"label_efficiency.png": figures.label_efficiency(table)}
    for dataset in sorted({row.dataset for row in table.rows}):
        results = figures.best_at_largest(table, dataset)
        if not results:
            continue
        row, ts = results[0].row, results[0].ts
        cell = table.cells[row, str(ts)]
        if cell.n > len(results):
            left = cell.n - len(results)
            table.notes.append(f"Warning: {dataset}: the confusion matrix leaves out {left} seeds with other classes.")
        name = figures.panel_names([r for r in table.rows if r.dataset == dataset])[row]
        number = str(cell).rsplit(" (", 1)[0].removesuffix(" ± —")
        unit = " (times 100)" if table.metric == "kappa" else " %"
        seeds = f"{cell.n} seed{'s' if cell.n > 1 else ''}"
        title = f"{dataset}: {name}, ts={ts}\n{METRIC_NAMES[table.metric]} {number}{unit}, {seeds}"
        made[file_name(dataset, made)] = figures.confusion(results, title)
    return made


def file_name(dataset: str, taken: dict[str, bytes]) -> str:
    """confusion_<dataset>.png with nothing in it that a file system or a link minds, and not twice the same."""
    stem = "confusion_" + re.sub(r"[^A-Za-z0-9._-]+", "_", dataset)
    number = 2
    name = f"{stem}.png"
    while name in taken:
        name, number = f"{stem}_{number}.png", number + 1
    return name


def write(path: Path, data: bytes) -> None:
    from rsssl.engine.files import write_atomic

    try:
        write_atomic(path, data)
    except (UserError, OSError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        reason = getattr(cause, "strerror", None) or cause
        raise UserError(f"{path} cannot be written ({reason}): type --out DIR with a folder of yours") from error


def show(table: Table, files: Sequence[Path]) -> None:
    """Prints the table, its caption and notes, and the files; no wider than the terminal, never cut when piped."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)  # a pipe has no width: nothing is cut
    plain = not console.encoding.lower().startswith("utf")

    def text(line: str) -> str:
        return line.replace("±", "+/-").replace("—", "-") if plain else line

    print_table(console, table, text)
    width = min(console.width, 100)
    console.print(text(" ".join(table.caption)), style="dim", markup=False, width=width)
    for note in table.notes:
        style = "yellow" if note.startswith("Warning") else ""
        console.print(text(note), style=style, markup=False)
    console.print()
    for path in files:
        console.print(str(path), markup=False, soft_wrap=True)


def print_table(console: Console, table: Table, text: Callable[[str], str]) -> None:
    """The table; where the terminal is too narrow for all columns, several with the first columns repeated."""
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    from rsssl.report.tables import grid, is_best

    headings, lines = grid(table)
    headings, lines = [text(h) for h in headings], [(row, [text(t) for t in texts]) for row, texts in lines]
    widths = [max(cell_len(t) for t in column) + 2 for column in zip(headings, *(t for _, t in lines), strict=True)]
    fixed = next(i for i, h in enumerate(headings) if h.startswith("ts="))
    room = console.width - sum(widths[:fixed])
    groups: list[list[int]] = [[]]
    for i in range(fixed, len(headings)):
        if groups[-1] and sum(widths[k] for k in groups[-1]) + widths[i] > room:
            groups.append([])
        groups[-1].append(i)
    for group in groups:
        shown = [*range(fixed), *group]
        rich = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for i in shown:
            rich.add_column(headings[i], justify="left" if i < fixed else "right", overflow="fold", no_wrap=i >= fixed)
        for k, (row, texts) in enumerate(lines):
            base = "dim" if row.baseline else ""
            if k and lines[k - 1][0].dataset != row.dataset:
                rich.add_row()
            styles = ["bold green" if is_best(table, row, headings[i]) else base for i in shown]
            rich.add_row(*(Text(texts[i], style=s) for i, s in zip(shown, styles, strict=True)))
        console.print()
        console.print(rich)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
