"""The tables of a report: scores with their spread, comparisons, confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

from rsssl.report.compare import Comparison
from rsssl.report.figures import mean_confusion
from rsssl.report.html.document import text
from rsssl.report.html.svg import linear
from rsssl.report.results import Result, Row
from rsssl.report.tables import FIELDS, NONE, Cell, Table, constants, duration, labels, percent

FOREST = 150  # pixels of the picture of an interval


def sortable(headings: Sequence[str], lines: Sequence[str], kind: str = "", words: int = 1) -> str:
    """A table that the script sorts when a heading is clicked, in a box of its own that scrolls.

    Args:
        headings: of the columns.
        lines: HTML, a <tr> each.
        kind: further classes.
        words: so many columns at the left hold words.
    """
    cells = [f'<th scope="col"{" class=words" if i < words else ""}>{text(h)}</th>' for i, h in enumerate(headings)]
    head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    return f'<div class="scroll"><table class="sortable {kind}">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def scores(table: Table, rows: Sequence[Row]) -> str:
    """Rows of one dataset over the train scales at which it was evaluated."""
    same, names = constants(rows), labels(rows)
    fields = [name for name in FIELDS if name not in (*same, "dataset")]
    columns = [ts for ts in table.columns if any((row, ts) in table.cells for row in rows)]
    timed = any(row in table.seconds for row in rows)
    headings = ["TTA" if name == "tta" else name.capitalize() for name in fields]
    headings += [f"ts={ts}" for ts in columns] + (["Pre-training"] if timed else [])
    lines = []
    for row in rows:
        words = row._asdict() | {"method": names[row], "backbone": row.backbone or NONE}
        words["tta"] = "yes" if row.tta else "no"
        cells = [f'<td class="words">{text(words[name])}</td>' for name in fields]
        cells += [score(table.cells.get((row, ts)), table) for ts in columns]
        if timed:
            seconds = table.seconds.get(row)
            cells.append(f'<td data-sort="{seconds or ""}">{duration(seconds)}</td>')
        lines.append(f"<tr{' class=base' if row.baseline else ''}>{''.join(cells)}</tr>")
    return sortable(headings, lines, "scores", len(fields))


def score(cell: Cell | None, table: Table) -> str:
    """Mean, sample standard deviation, number of seeds; the mean alone in a table of one seed. Each is a tooltip."""
    if cell is None:
        return '<td data-sort=""></td>'
    each = ", ".join(f"seed {r.seed}: {percent(r.scores[table.metric])}" for r in cell.results)
    spread = f" ± {NONE if cell.std is None else percent(cell.std)} ({len(cell.results)})" * (table.most_seeds > 1)
    value = "" if math.isnan(cell.mean) else f"{cell.mean:.6f}"
    best = " class=best" if cell.best else ""
    number = f"<b>{percent(cell.mean)}</b>" if cell.best else percent(cell.mean)
    return f'<td{best} data-sort="{value}" title="{text(each)}">{number}<small>{spread}</small></td>'


def comparison(found: Sequence[Comparison], names: Mapping[Row, str]) -> str:
    """Each row beside the best of its column: a part for each column, the last one open. The intervals of all are drawn
    on one scale."""
    ends = [end for c in found for end in (c.low, c.high, c.mean) if end is not None]
    # A single wide interval, as of two seeds, does not squeeze the others: it is cut at the picture's edge.
    far = 4 * float(np.median(np.abs(ends)))
    low, high = max(min([0.0, *ends]), -far), min(max([0.0, *ends]), far)
    at = linear(low, high, 6, FOREST - 6)
    headings = ["Row", "Seeds", "Points", "95 % interval", "", "Signed-rank p (least)", "Detectable"]
    columns = [(best, ts, list(group)) for (best, ts), group in groupby(found, lambda c: (c.best, c.ts))]
    parts = []
    for best, ts, column in columns:
        lines = sortable(headings, [compared(c, names[c.row], at) for c in column], "compared")
        opened = " open" if column is columns[-1][2] else ""
        parts.append(
            f"<details{opened}><summary>ts={text(ts)}, beside <b>{text(names[best])}</b></summary>{lines}</details>"
        )
    return "".join(parts)


def compared(c: Comparison, name: str, at: Callable[[float], float]) -> str:
    """One row of a comparison; a difference whose interval does not hold 0 is bold."""
    interval = NONE if c.low is None or c.high is None else f"{points(c.low)} to {points(c.high)}"
    clear = c.low is not None and c.high is not None and not c.low <= 0 <= c.high
    p = f"{c.p:.3g} <small>({c.least_p:.3g})</small>" if c.seeds > 1 else NONE
    mean = f"<b>{points(c.mean)}</b>" if clear else points(c.mean)
    detectable = "" if c.detectable is None else f"{c.detectable:.6f}"
    return (
        f'<tr><td class="words">{text(name)}</td><td>{c.seeds}</td><td data-sort="{c.mean:.6f}">{mean}</td>'
        f'<td data-sort="{c.mean if c.low is None else c.low:.6f}">{interval}</td>'
        f'<td class="forest" data-sort="{c.mean:.6f}">{forest(c, at)}</td><td data-sort="{c.p:.6f}">{p}</td>'
        f'<td data-sort="{detectable}">{f"{c.detectable:.1f}" if c.detectable else NONE}</td></tr>'
    )


def points(value: float) -> str:
    """With its sign, of which the minus is as wide as the plus."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def forest(c: Comparison, at: Callable[[float], float]) -> str:
    """The interval beside 0, as far as the picture reaches."""

    def inside(value: float) -> float:
        return max(1.0, min(FOREST - 1.0, at(value)))

    bar = ""
    if c.low is not None and c.high is not None:
        bar = f'<path class="line" d="M{inside(c.low):.1f} 8H{inside(c.high):.1f}"/>'
    return (
        f'<svg viewBox="0 0 {FOREST} 16" aria-hidden="true"><path class="rule" d="M{at(0):.1f} 0V16"/>'
        f'<g class="own c0">{bar}<circle class="mark" cx="{inside(c.mean):.1f}" cy="8" r="3.4"/></g></svg>'
    )


def confusion(results: Sequence[Result]) -> str:
    """The confusion matrix, mean over the results (seeds of one row): percent of the true class, with the images of
    each class and how often what is taken for a class is one."""
    shares, classes = mean_confusion(results), results[0].classes
    counts = np.mean([r.confusion for r in results], axis=0)
    right = np.divide(counts.diagonal(), counts.sum(0), out=np.full(len(counts), np.nan), where=counts.sum(0) > 0)
    head = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in classes)
    lines = [f'<tr><td class="corner">true class</td>{head}<th scope="col"><span>images</span></th></tr>']
    for i, name in enumerate(classes):
        cells = [share(shares[i, j], counts[i, j], (name, classes[j]), i == j) for j in range(len(classes))]
        lines.append(
            f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}<td class="sum">{counts[i].sum():,.0f}</td></tr>'
        )
    correct = "".join(f'<td class="sum">{NONE if math.isnan(v) else f"{100 * v:.0f}"}</td>' for v in right)
    lines.append(f'<tr><th scope="row" class="sum">right of those taken for it (%)</th>{correct}<td></td></tr>')
    many = " many" if len(classes) > 15 else ""
    return f'<div class="scroll"><table class="confusion{many}">{"".join(lines)}</table></div>'


def share(value: float, count: float, pair: tuple[str, str], hit: bool) -> str:
    """A cell: percent of the true class, darker for more; hits and misses have colours of their own."""
    if math.isnan(value) or not value:
        return f"<td>{NONE if math.isnan(value) else ''}</td>"
    number = f"{value:.0f}" if value >= 0.95 else f"{value:.1f}"[1:]
    words = f"{pair[0]}, taken for {pair[1]}: {value:.1f} %, {count:,.1f} images on average"
    # The square root lifts confusions of a few percent above the page's colour.
    depth, strong = 10 * math.sqrt(value), " strong" if value > 40 else ""
    kind = "hit" if hit else "miss"
    return f'<td class="{kind}{strong}" style="--s: {depth:.0f}%" title="{text(words)}">{number}</td>'
