"""`rsssl-report RUNS_DIR...`: one table and its figures from any set of finished runs. Imports no torch."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsssl.errors import UserError

if TYPE_CHECKING:
    from rsssl.report.results import Result
    from rsssl.report.tables import Table

DESCRIPTION = """\
Reads every results.json below the folders and makes one table: a row for each method and for the baselines beside
it, a column for each ts, mean and sample standard deviation over the seeds. Prints it, and writes report.md, report.csv
(every number), report_summary.csv, report.tex, label_efficiency.png, and for each dataset confusion_<dataset>.png and
reliability_<dataset>.png. With --html also report.html, one file that needs no network.
"""
EXAMPLES = """\
  rsssl-report multirun/2025-01-31/12-00-00
  rsssl-report multirun/2025-01-31/12-00-00 --html
  rsssl-report runs/simclr runs/jigsaw --metric aa --out paper/
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("rsssl-report", description=DESCRIPTION, epilog=f"Examples:\n{EXAMPLES}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS_DIR", help="folders that hold runs, at any depth")
    parser.add_argument("--metric", choices=("oa", "aa", "kappa"), default="oa", help="what is shown (oa)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (the first RUNS_DIR)")
    parser.add_argument("--html", action="store_true", help="report.html too: all of it on one page, with images")
    parser.add_argument("--no-figures", action="store_true", help="no PNG files; matplotlib is not needed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `rsssl-report`; returns the exit code (2: something the user can put right)."""
    args = arguments(argv)
    try:
        out, store = args.out or args.runs[0], os.environ.get("RSSSL_STORE")
        report(args.runs, args.metric, out, figures=not args.no_figures, html=args.html, store=store)
    except UserError as error:
        print(f"rsssl: {error}", file=sys.stderr)
        return 2
    return 0


def report(
    folders: Sequence[Path], metric: str, out: Path, figures: bool = True, html: bool = False, store: str | None = None
) -> list[Path]:
    """Reads, writes the files, prints the table and the files' paths, which it returns.

    Args:
        folders: of runs, at any depth.
        metric: "oa", "aa" or "kappa".
        out: where the files go.
        figures: write PNG files.
        html: write the page.
        store: where artefacts are looked for that are no longer where the results say.

    Raises:
        UserError: when a folder is missing, no results are found, or `out` cannot be written.
    """
    from rsssl.report import formats, tables

    results, warnings = collect(folders)
    if html and store:
        from rsssl.report.html.images import moved_to

        results = [moved_to(r, Path(store).expanduser().absolute()) for r in results]
    table = tables.build(results, metric)
    table.notes += warnings
    images = draw(table) if figures else {}
    texts = {
        "report.md": formats.markdown(table, list(images)),
        "report.csv": formats.long_csv(table),
        "report_summary.csv": formats.summary_csv(table),
        "report.tex": formats.latex(table),
    }
    # Names of folders may hold bytes that no text has.
    files = {name: content.encode("utf-8", "replace") for name, content in texts.items()} | images
    if html:
        from rsssl.report.html.page import page

        files["report.html"] = page(table)
    paths = [out / name for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        write(path, data)
    show(table, paths)
    return paths


def collect(folders: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Every result below the folders, and warnings that name what was left out."""
    from rsssl.report.datasets import told_apart
    from rsssl.report.results import find, read

    for folder in folders:
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {problem}: type rsssl-report with a folder that holds runs, such as multirun/")
    paths, warnings = find(folders)
    results: list[Result] = []
    for path in paths:
        try:
            of_file, left_out = read(path)
        except ValueError as error:
            warnings.append(f"{path} {error}; skipped")
            continue
        results += of_file
        warnings += left_out
    results, notes = told_apart(results)
    warnings = [*notes, *(f"Warning: {warning}." for warning in warnings)]
    if not results:
        lines = [f"there are no results in {', '.join(map(str, folders))}", *warnings]
        command = "rsssl-run --multirun ts=5,20 seed=0,1,2 hydra.sweep.dir=runs/NAME, and then rsssl-report runs/NAME"
        raise UserError("\n".join([*lines, f"make some first, type for example: {command}"]))
    return results, warnings


def draw(table: Table) -> dict[str, bytes]:
    """File names and PNGs. Adds a note where seeds with other classes are left out of a confusion matrix."""
    from rsssl.report import figures
    from rsssl.report.reliability import reliability
    from rsssl.report.tables import METRIC_NAMES, percent, plural

    images = {"label_efficiency.png": figures.label_efficiency(table)}
    for dataset in sorted({row.dataset for row in table.rows}):
        results = figures.best_at_largest(table, dataset)
        if not results:
            continue
        row, ts = results[0].row, results[0].ts
        cell = table.cells[row, ts]
        if left := len(cell.results) - len(results):
            table.notes.append(f"Warning: {dataset}: the confusion matrix leaves out {left} seeds with other classes.")
        name = figures.panel_names([r for r in table.rows if r.dataset == dataset])[row]
        number = percent(cell.mean) + ("" if cell.std is None or math.isnan(cell.std) else f" ± {percent(cell.std)}")
        number += " (times 100)" if table.metric == "kappa" else " %"
        title = (
            f"{dataset}: {name}, ts={ts}\n{METRIC_NAMES[table.metric]} {number}, {plural(len(cell.results), 'seed')}"
        )
        images[file_name("confusion", dataset, images)] = figures.confusion(results, title)
        trusted = {
            ts: table.cells[row, ts].results
            for ts in table.columns
            if (row, ts) in table.cells and all(r.bins for r in table.cells[row, ts].results)
        }
        if trusted:
            title = f"{dataset}: {name}, reliability of its probabilities"
            images[file_name("reliability", dataset, images)] = reliability(trusted, title)
    return images


def file_name(kind: str, dataset: str, taken: Container[str]) -> str:
    """KIND_DATASET.png in characters that any file system and link takes; numbered where the name is taken."""
    stem = f"{kind}_" + re.sub(r"[^A-Za-z0-9._-]+", "_", dataset)
    names = itertools.chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def write(path: Path, data: bytes) -> None:
    from rsssl.engine.files import write_atomic

    try:
        write_atomic(path, data)
    except (UserError, OSError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or cause
        raise UserError(f"{path} cannot be written ({reason}): type --out DIR with a folder of yours") from error


def show(table: Table, files: Sequence[Path]) -> None:
    """Prints the table, its caption and notes, and the files; no wider than the terminal, never cut when piped."""
    from rsssl.report.formats import grid
    from rsssl.report.tables import caption
    from rsssl.report.terminal import UNLIMITED, Terminal

    terminal = Terminal()
    headings, words, rows = grid(table)
    lines: list[list[tuple[str, str]]] = []
    for _, group in itertools.groupby(rows, key=lambda line: line.row.dataset):
        lines.append([])  # an empty line between datasets
        for row, cells in group:
            style = "dim" if row.baseline else ""
            lines.append([(text, "bold green" if best else style) for text, best in cells])
    terminal.table(headings, lines[1:], words)
    terminal.line(caption(table), "dim", wrap=100)
    for note in table.notes:
        terminal.line(note, "yellow" if note.startswith("Warning") else "", wrap=UNLIMITED)
    terminal.line()
    for path in files:
        terminal.line(str(path))


if __name__ == "__main__":
    sys.exit(main())
