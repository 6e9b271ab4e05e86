"""The plots of a sweep: accuracy over labels, reliability, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rsssl.report import figures, reliability
from rsssl.report.html.document import text
from rsssl.report.html.svg import COLOURS, DASHES, DOT, MARKS, Plot, linear, logarithmic, mark, ticks
from rsssl.report.results import Result, Row
from rsssl.report.tables import METRIC_NAMES, Table

PANELS = 6  # train scales that the reliability is shown at
CURVE = 300  # points of a training curve


def styles(names: Mapping[Row, str], coloured: Sequence[str]) -> dict[Row, tuple[str, str]]:
    """By row the classes and the mark of its line: a colour for each method, in all plots; dashes for baselines."""
    baselines = [row for row in names if row.baseline]
    found = {}
    for row, name in names.items():
        if row.baseline:
            found[row] = f"base d{baselines.index(row) % DASHES}", DOT
        else:
            number = coloured.index(name)
            found[row] = f"own c{number % COLOURS}", MARKS[number % len(MARKS)]
    return found


def label_efficiency(table: Table, names: Mapping[Row, str], coloured: Sequence[str]) -> str:
    """The metric over labels per class (log scale) for rows of one dataset, with its legend. Bars are one sample
    standard deviation up and down."""
    lines = {row: line for row in names if (line := figures.points(table, row))}
    if not lines:
        return "<p>None of the rows has this metric.</p>"
    metric = METRIC_NAMES[table.metric].split(" (")[0]
    plot = Plot(620, 360, f"{metric} over labelled images per class", (56, 10, 12, 42))
    values = [y + sign * std for line in lines.values() for _, y, std in line for sign in (-1, 1)]
    heights = ticks(max(min(values), -100.0), min(max(values), 100.0))
    at_y = linear(heights[0], heights[-1], plot.bottom, plot.top)
    used = sorted({x for line in lines.values() for x, _, _ in line})
    pad = (used[-1] / used[0]) ** 0.05 if used[-1] > used[0] else 2.0
    at_x = logarithmic(used[0] / pad, used[-1] * pad, plot.left, plot.right)
    plot.y_axis(at_y, heights, metric + (" x 100" if table.metric == "kappa" else " (%)"))
    whole = {r.labels_per_class for r in table.results if r.ts == "all" and r.row in names}
    plot.x_axis(at_x, tick_names(used, whole, at_x), "Labelled images per class")
    look = styles(names, coloured)
    order = sorted(lines, key=lambda row: not row.baseline)  # methods over baselines
    for i, row in enumerate(order):
        shift = 5.0 * (i - (len(order) - 1) / 2) / max(len(order) - 1, 1)  # error bars beside each other
        kind, shape = look[row]
        points = [(at_x(x) + shift, at_y(y)) for x, y, _ in lines[row]]
        plot.add(f'<g class="series {kind}" data-series="{list(names).index(row)}">{plot.line(points)}')
        for (px, py), (x, y, std) in zip(points, lines[row], strict=True):
            up, down = at_y(y + std), at_y(y - std)
            bar = f"M{px - 3:.1f} {up:.1f}h6M{px:.1f} {up:.1f}V{down:.1f}M{px - 3:.1f} {down:.1f}h6"
            spread = f" ± {std:.1f}" if std else ""
            words = f"{names[row]}, {x:.3g} labels per class: {y:.1f}{spread}"
            plot.add((f'<path class="bar" d="{bar}"/>' if std else "") + mark(shape, px, py))
            plot.add(f'<circle class="aim" cx="{px:.1f}" cy="{py:.1f}" r="9"><title>{text(words)}</title></circle>')
        plot.add("</g>")
    ends = {row: line[-1][1] for row, line in lines.items()}
    legend = [key(list(names).index(row), names[row], *look[row]) for row in sorted(lines, key=lambda r: -ends[r])]
    return f'<div class="scroll plot">{plot.svg()}</div><ul class="legend">{"".join(legend)}</ul>'


def tick_names(used: Sequence[float], whole: set[float], at: object) -> list[tuple[float, str]]:
    """The train scales that were used; names that would touch the one before are empty."""
    named: list[tuple[float, str]] = []
    last = -math.inf
    for x in used:
        pixels = at(x)  # type: ignore[operator]
        name = f"{x:.3g}" + (" (all)" if any(math.isclose(x, w, rel_tol=1e-6) for w in whole) else "")
        close = pixels - last < 4 + 7 * len(name)
        named.append((x, "" if close else name))
        last = last if close else pixels
    return named


def key(number: int, name: str, kind: str, shape: str) -> str:
    """One line of a legend."""
    icon = f'<svg viewBox="0 0 30 12" aria-hidden="true"><path class="line" d="M1 6H29"/>{mark(shape, 15, 6)}</svg>'
    return f'<li class="{kind}" data-series="{number}">{icon}<span>{text(name)}</span></li>'


def reliability_panels(columns: Mapping[str, Sequence[Result]]) -> str:
    """A panel for each train scale: how often what the classifier says with some confidence is true.

    Args:
        columns: by train scale the results of one row, one per seed, which all have a calibration.
    """
    return "".join(reliability_panel(ts, results) for ts, results in list(columns.items())[:PANELS])


def reliability_panel(ts: str, results: Sequence[Result]) -> str:
    count, confidence, accuracy = reliability.bins(results)
    share, n = count / count.sum(), len(count)
    plot = Plot(180, 172, f"Reliability at ts={ts}", (30, 8, 8, 26))
    at_x, at_y = linear(0, 100, plot.left, plot.right), linear(0, 100, plot.bottom, plot.top)
    plot.y_axis(at_y, [0, 50, 100], "")
    plot.x_axis(at_x, [(v, f"{v}") for v in (0, 50, 100)], "")
    plot.add(f'<path class="ideal" d="M{at_x(0):.1f} {at_y(0):.1f}L{at_x(100):.1f} {at_y(100):.1f}"/>')
    for i in np.flatnonzero(count > 0).tolist():
        x, width, y = at_x(i * 100 / n), at_x(100 / n) - at_x(0), at_y(accuracy[i])
        shade = 0.2 + 0.7 * math.sqrt(share[i] / share.max())
        words = f"{100 * share[i]:.1f} % of the test images: {confidence[i]:.1f} % sure, {accuracy[i]:.1f} % right"
        plot.add(
            f'<g class="own c0"><rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" '
            f'height="{plot.bottom - y:.1f}" fill-opacity="{shade:.2f}"/></g>'
            f'<g class="own c1">{mark(DOT, at_x(confidence[i]), y)}</g>'
            f'<rect class="aim" x="{x:.1f}" y="{plot.top}" width="{width:.1f}" height="{plot.bottom - plot.top}">'
            f"<title>{text(words)}</title></rect>"
        )
    names = {"ece": "off by {}", "ece_before": "before {}", "chance": "by chance {}"}
    means = {k: [r.trust[k] for r in results] for k in names if all(k in r.trust for r in results)}
    words = ", ".join(names[k].format(f"{100 * float(np.mean(v)):.1f}") for k, v in means.items())
    return f"<figure><figcaption><b>ts={text(ts)}</b> {text(words)}</figcaption>{plot.svg()}</figure>"


def curve(points: Sequence[tuple[int, float]], title: str, colour: int, percent: bool = False) -> str:
    """One number over the steps of a training; of many steps the means of as many parts as are drawn.

    Args:
        points: (step, value), by increasing step.
        title: what it is.
        colour: number of the line's.
        percent: values are fractions, and shown as percent.
    """
    factor = 100.0 if percent else 1.0
    parts = np.array_split(np.array(points, float), min(len(points), CURVE))
    means = [(float(p[:, 0].mean()), factor * float(p[:, 1].mean())) for p in parts]
    means[-1] = float(points[-1][0]), means[-1][1]
    plot = Plot(300, 180, f"{title} over steps", (54, 10, 12, 36))
    heights = ticks(min(y for _, y in means), max(y for _, y in means), 4)
    last = max(points[-1][0], 1)
    at_x, at_y = linear(0, last, plot.left, plot.right), linear(heights[0], heights[-1], plot.bottom, plot.top)
    plot.y_axis(at_y, heights, "")
    plot.x_axis(at_x, [(v, f"{v:,.0f}") for v in (0, last)], "steps")
    words = text(
        f"{title}: {factor * points[0][1]:.4g} at step {points[0][0]}, {factor * points[-1][1]:.4g} in the end"
    )
    pixels = [(at_x(x), at_y(y)) for x, y in means]
    dots = "".join(mark(DOT, *p) for p in pixels) if len(pixels) < 30 else mark(DOT, *pixels[-1])
    plot.add(f'<g class="own c{colour}"><title>{words}</title>{plot.line(pixels)}{dots}</g>')
    unit = " (%)" if percent else ""
    return f"<figure><figcaption><b>{text(title + unit)}</b></figcaption>{plot.svg()}</figure>"
