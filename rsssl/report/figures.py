"""The report's figures as PNG bytes: label efficiency and confusion matrix. The only importer of matplotlib, lazily.

Uses Figure and FigureCanvasAgg directly: no display, no pyplot, no state that outlives a call.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rsssl.errors import UserError
from rsssl.report.results import Result, Row, ts_order
from rsssl.report.tables import METRIC_NAMES, Table, constants, labels, mean_std

# Okabe and Ito's colours that red-green colour-blind readers tell apart, without yellow (too pale on white) and black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREYS = (("#6b6b6b", (0, (5, 2))), ("#949494", (0, (2, 2))), ("#a8a8a8", (0, (6, 2, 1, 2))), ("#7d7d7d", (0, (1, 1))))
METHOD = {"markersize": 6, "zorder": 3, "linewidth": 2, "markeredgecolor": "white", "markeredgewidth": 0.8}
BASELINE = {"marker": ".", "zorder": 2, "linewidth": 1.4}
ERROR_BAR = {"capsize": 2.5, "elinewidth": 1.1, "capthick": 1.1}
POINTER = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
BLUES = ("#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
INK, FAINT = "#262626", "#e6e6e6"
CELL_NUMBERS = 15  # classes up to which the cells of a confusion matrix hold numbers
STYLE: dict[Any, Any] = {"font.size": 10, "text.parse_math": False, "axes.edgecolor": "#8c8c8c"}
STYLE |= {f"{name}color": INK for name in ("text.", "axes.label", "axes.title", "xtick.", "ytick.")}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """A figure of that size in inches and the buffer its PNG lands in; the user's matplotlibrc does not matter."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        command = "pip install matplotlib or --no-figures"
        raise UserError(f"the figures need matplotlib ({error}): type {command}") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        png = io.BytesIO()
        yield figure, png
        figure.savefig(png, format="png", dpi=200, bbox_inches="tight", pad_inches=0.12)


def label_efficiency(table: Table) -> bytes:
    """Accuracy over labels per class (log scale), a panel for each dataset; bars are one sample standard deviation."""
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_dataset[row.dataset].append(row)
    across = min(len(by_dataset), 2)
    down = math.ceil(len(by_dataset) / across)
    tallest = max(len(rows) for rows in by_dataset.values())
    names = {row: name for rows in by_dataset.values() for row, name in panel_names(rows).items()}
    coloured = sorted({name for row, name in names.items() if not row.baseline})  # a colour each, in all panels
    unit = " x 100" if table.metric == "kappa" else " (%)"
    with canvas(6.8 * across, max(4.0, 0.4 * tallest) * down) as (figure, png):
        panels = figure.subplots(down, across, squeeze=False).flat
        for panel in panels[len(by_dataset) :]:
            panel.set_axis_off()
        for panel, (dataset, rows) in zip(panels, by_dataset.items(), strict=False):
            draw_panel(panel, table, {row: names[row] for row in rows}, coloured)
            panel.set_title(dataset, loc="left", fontsize=11, fontweight="bold")
            panel.set_ylabel(METRIC_NAMES[table.metric].split(" (")[0] + unit)
        if len({r.seed for r in table.results}) > 1:
            text = "Bars: one sample standard deviation over seeds, up and down."
            figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color="#6b6b6b")
    return png.getvalue()


def points(table: Table, row: Row) -> list[tuple[float, float, float]]:
    """(labels per class, mean, std) of a row in percent, by increasing labels; std 0 for one seed."""
    line = []
    for (other, _), cell in table.cells.items():
        seeds = [r for r in cell.results if other == row and not math.isnan(r.scores[table.metric])]
        if seeds:
            mean, std = mean_std([r.scores[table.metric] for r in seeds])
            line.append((mean_std([r.labels_per_class for r in seeds])[0], 100 * mean, 100 * (std or 0.0)))
    return sorted(line)


def draw_panel(panel: Any, table: Table, names: dict[Row, str], coloured: Sequence[str]) -> None:
    """Lines, error bars and the name of each line at its right end. `coloured` orders the methods' colours."""
    lines = {row: points(table, row) for row in names}
    baselines = [row for row, line in lines.items() if line and row.baseline]
    ends: list[tuple[float, str, str]] = []
    for i, (row, line) in enumerate(lines.items()):
        if not line:
            continue
        shift = 1.012 ** (i - (len(names) - 1) / 2)  # error bars beside each other
        x, y, std = zip(*line, strict=True)
        if row.baseline:
            colour, dashes = GREYS[baselines.index(row) % len(GREYS)]
            style = BASELINE | {"linestyle": dashes}
        else:
            number = coloured.index(names[row])
            colour = PALETTE[number % len(PALETTE)]
            style = METHOD | {"marker": MARKERS[number % len(MARKERS)]}
        bars = std if any(std) else None
        panel.errorbar([v * shift for v in x], y, yerr=bars, color=colour, **style, **ERROR_BAR)
        ends.append((y[-1], names[row], "#5e5e5e" if row.baseline else colour))
    used = sorted({x for line in lines.values() for x, _, _ in line})
    log_axis(panel, used, {r.labels_per_class for r in table.results if r.ts == "all" and r.row in names})
    panel.set_xlabel("Labelled images per class")
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(length=3)
    low, high = panel.get_ylim()
    name_style = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9.5}
    for (end, name, colour), at in zip(ends, spread([end for end, _, _ in ends], (high - low) / 18), strict=True):
        pointer = POINTER | {"color": colour} if abs(at - end) > (high - low) / 60 else None
        panel.annotate(name, (1, end), (1.04, at), color=colour, arrowprops=pointer, **name_style)


def log_axis(panel: Any, used: Sequence[float], whole: set[float]) -> None:
    """A log axis with a tick at each train scale used; names too close to the one before are left out."""
    panel.set_xscale("log")
    panel.minorticks_off()
    low, high = (used[0], used[-1]) if used else (1.0, 1.0)
    pad = max((high / low) ** 0.05, 1.12) if high > low else 2.0
    panel.set_xlim(low / pad, high * pad)
    texts, last = [], 0.0
    for x in used:
        close = last and math.log(x / last) < 0.06 * math.log(high * pad * pad / low)
        whole_pool = any(math.isclose(x, w, rel_tol=1e-6) for w in whole)
        texts.append("" if close else f"{x:.3g}" + ("\n(all)" if whole_pool else ""))
        last = last if close else x
    panel.set_xticks(used, texts)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions as near to the wanted ones as can be, at least `gap` apart, in the same order.

    With k gaps taken off the k-th, the positions need only not to decrease: neighbours that would share their mean
    (isotonic regression by pooling adjacent violators).
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[np.ndarray] = []
    for k, i in enumerate(order):
        pools.append(np.array([wanted[i] - gap * k]))
        while len(pools) > 1 and pools[-1].mean() < pools[-2].mean():
            pools[-2:] = [np.concatenate(pools[-2:])]
    placed = np.zeros(len(wanted))
    placed[order] = [pool.mean() for pool in pools for _ in pool] + gap * np.arange(len(wanted))
    return placed.tolist()


def panel_names(rows: Sequence[Row]) -> dict[Row, str]:
    """The label of each line: its method, and the fields that are not the same for the whole panel."""
    same, method = constants(rows), labels(rows)
    differ = [field for field in ("backbone", "evaluate", "protocol") if field not in same]
    names = {}
    for row in rows:
        parts = [getattr(row, field) for field in differ] + ["TTA" if row.tta and "tta" not in same else ""]
        names[row] = ", ".join([method[row], *filter(None, parts)])
    return names


def best_at_largest(table: Table, dataset: str) -> list[Result]:
    """The results (one per seed) of the dataset's best method row at its largest train scale, baselines apart."""
    results = [r for r in table.results if r.row.dataset == dataset and not r.row.baseline and r.confusion]
    if not results:
        return []
    ts = max(results, key=lambda r: (r.labels_per_class, ts_order(r.ts))).ts
    cells = [table.cells[row, ts] for row in sorted({r.row for r in results if r.ts == ts})]
    best = max(cells, key=lambda cell: -math.inf if math.isnan(cell.mean) else cell.mean)
    newest = max(best.results, key=lambda r: r.finished)
    return [r for r in best.results if r.classes == newest.classes and r.confusion]


def mean_confusion(results: Sequence[Result]) -> np.ndarray:
    """Percent (n, n): each row divided by its number of test images, then the mean over results; nan without images."""
    counts = np.asarray([r.confusion for r in results], dtype=np.float64)  # (seeds, n, n)
    totals = np.ma.masked_equal(counts.sum(2, keepdims=True), 0)
    return (100 * counts / totals).mean(0).filled(np.nan)


def confusion(results: Sequence[Result], title: str) -> bytes:
    """The row-normalised confusion matrix, mean over the results (seeds of one row), with class names.

    Args:
        results: of one row and one ts, with the same classes.
        title: what is shown, one line.
    """
    share, names = mean_confusion(results), [n if len(n) <= 24 else n[:23] + "…" for n in results[0].classes]
    n = len(names)
    cell = 0.52 if n <= CELL_NUMBERS else max(0.2, 8 / n)
    room = 0.085 * max(map(len, names)) + 0.5
    side = max(n * cell, 2.2)
    with canvas(side + room + 1.4, side + room + 0.9) as (figure, png):
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm

        colours = LinearSegmentedColormap.from_list("blues", BLUES).with_extremes(bad="#ececec")
        panel = figure.subplots()
        # The square root lifts confusions of a few percent above white.
        image = panel.imshow(share, cmap=colours, norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        size = 9 if n <= 20 else 7
        panel.set_xticks(range(n), names, rotation=90 if n > 5 else 0, fontsize=size)
        panel.set_yticks(range(n), names, fontsize=size)
        panel.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        panel.grid(which="minor", color="white" if n <= CELL_NUMBERS else "#f2f2f2", linewidth=min(1.2, 20 / n))
        panel.tick_params(which="both", length=0)
        panel.spines[:].set_color(FAINT)
        panel.set_xlabel("Predicted class")
        panel.set_ylabel("True class")
        panel.set_title(title, loc="left", fontsize=10.5, pad=10)
        for i, j in np.argwhere(share >= 0.5) if n <= CELL_NUMBERS else ():
            shade = "white" if share[i, j] > 35 else INK
            number = panel.text(j, i, f"{math.floor(share[i, j] + 0.5)}", color=shade, fontsize=8.5)
            number.set(ha="center", va="center", fontweight="bold" if i == j else "normal")
        bar = figure.colorbar(image, ax=panel, shrink=0.7, aspect=28, pad=0.02, ticks=[0, 5, 20, 50, 100])
        bar.set_label("Share of the true class (%)", fontsize=9)
        bar.ax.tick_params(labelsize=8, length=2)
        bar.outline.set_visible(False)
    return png.getvalue()
