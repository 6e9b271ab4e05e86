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
from rsssl.report.tables import METRIC_NAMES, NONE, Table, constants, labels, mean_std

# Okabe and Ito's colours that red-green colour-blind readers tell apart, without yellow (too pale on white) and black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREYS = (("#6b6b6b", (0, (5, 2))), ("#949494", (0, (2, 2))), ("#a8a8a8", (0, (6, 2, 1, 2))), ("#7d7d7d", (0, (1, 1))))
BLUES = ("#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
INK, FAINT = "#262626", "#e6e6e6"
SMALL: dict[str, Any] = {"fontsize": 8.5, "color": "#6b6b6b"}
CELL_NUMBERS = 15  # classes up to which the cells of a confusion matrix hold numbers
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.parse_math": False,
    "axes.edgecolor": "#8c8c8c",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """A figure of that size in inches and the buffer its PNG lands in; the user's matplotlibrc does not matter."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"the figures need matplotlib ({error}): type pip install matplotlib or --no-figures"
        raise UserError(message) from error
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
        for panel in list(panels)[len(by_dataset) :]:
            panel.set_axis_off()
        for panel, (dataset, rows) in zip(figure.axes, by_dataset.items(), strict=False):
            draw_panel(panel, table, {row: names[row] for row in rows}, coloured)
            panel.set_title(dataset, loc="left", fontsize=11, fontweight="bold", color=INK)
            panel.set_ylabel(METRIC_NAMES[table.metric].split(" (")[0] + unit)
        if len({r.seed for r in table.results}) > 1:
            figure.supxlabel("Bars: one sample standard deviation over seeds, up and down.", x=0.01, ha="left", **SMALL)
    return png.getvalue()


def points(table: Table, row: Row) -> list[tuple[float, float, float]]:
    """(labels per class, mean, std) of a row in percent, by increasing labels; std 0 for one seed."""
    seen: dict[str, list[Result]] = defaultdict(list)
    for r in table.results:
        if r.row == row and not math.isnan(r.scores[table.metric]):
            seen[str(r.ts)].append(r)
    found = []
    for group in seen.values():
        mean, std = mean_std([r.scores[table.metric] for r in group])
        found.append((mean_std([r.labels_per_class for r in group])[0], 100 * mean, 100 * (std or 0.0)))
    return sorted(found)


def draw_panel(panel: Any, table: Table, names: dict[Row, str], coloured: Sequence[str]) -> None:
    """Lines, error bars and the name of each line at its right end. `coloured` orders the methods' colours."""
    rows = list(names)
    ends: list[tuple[float, str, str]] = []
    greys = 0
    used = sorted({x for row in rows for x, _, _ in points(table, row)})
    for i, row in enumerate(rows):
        line = points(table, row)
        if not line:
            continue
        shift = 1.012 ** (i - (len(rows) - 1) / 2)  # error bars beside each other
        x, y, std = zip(*line, strict=True)
        if row.baseline:
            colour, dashes = GREYS[greys % len(GREYS)]
            greys += 1
            style: dict[str, Any] = {"linestyle": dashes, "linewidth": 1.4, "marker": ".", "zorder": 2}
        else:
            number = coloured.index(names[row])
            colour = PALETTE[number % len(PALETTE)]
            style = {
                "marker": MARKERS[number % len(MARKERS)],
                "markersize": 6,
                "zorder": 3,
                "linewidth": 2,
                "markeredgecolor": "white",
                "markeredgewidth": 0.8,
            }
        bars = None if not any(std) else std
        style |= {"color": colour, "capsize": 2.5, "elinewidth": 1.1, "capthick": 1.1}
        panel.errorbar([v * shift for v in x], y, yerr=bars, **style)
        ends.append((y[-1], names[row], "#5e5e5e" if row.baseline else colour))
    log_axis(panel, used, {r.labels_per_class for r in table.results if r.ts == "all" and r.row in rows})
    panel.set_xlabel("Labelled images per class")
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(length=3)
    low, high = panel.get_ylim()
    places = spread([end for end, _, _ in ends], (high - low) / 18)
    for (end, name, colour), at in zip(ends, places, strict=True):
        pointer = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        panel.annotate(
            name,
            xy=(1, end),
            xytext=(1.04, at),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            color=colour,
            arrowprops=pointer if abs(at - end) > (high - low) / 60 else None,
        )


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
    """Positions as near to the wanted ones as can be, at least `gap` apart (pools that overlap share their centre)."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[list[int]] = []
    centre: list[float] = []
    for i in order:
        pools.append([i])
        centre.append(wanted[i])
        while len(pools) > 1 and centre[-1] - centre[-2] < gap * (len(pools[-1]) + len(pools[-2])) / 2:
            pools[-2:] = [pools[-2] + pools[-1]]
            centre[-2:] = [sum(wanted[j] for j in pools[-1]) / len(pools[-1])]
    placed = [0.0] * len(wanted)
    for pool, middle in zip(pools, centre, strict=True):
        for k, i in enumerate(pool):
            placed[i] = middle + gap * (k - (len(pool) - 1) / 2)
    return placed


def panel_names(rows: Sequence[Row]) -> dict[Row, str]:
    """The label of each line: its method, and the fields that are not the same for the whole panel."""
    fixed, method = constants(rows), labels(rows)
    names = {}
    for row in rows:
        parts = [getattr(row, f) or NONE for f in ("backbone", "evaluate", "protocol") if f not in fixed]
        parts = [p for p in parts if p != NONE] + (["TTA"] if row.tta and "tta" not in fixed else [])
        names[row] = ", ".join([method[row], *parts])
    return names


def best_at_largest(table: Table, dataset: str) -> list[Result]:
    """The results (one per seed) of the dataset's best method row at its largest train scale, baselines apart."""
    mine = [r for r in table.results if r.row.dataset == dataset and not r.row.baseline]
    if not mine:
        return []
    largest = max(mine, key=lambda r: (r.labels_per_class, ts_order(str(r.ts))))
    at = [r for r in mine if str(r.ts) == str(largest.ts)]

    def mean(row: Row) -> float:
        value = table.cells[row, str(largest.ts)].mean
        return -math.inf if math.isnan(value) else value

    best = max(sorted({r.row for r in at}), key=mean)
    of_best = [r for r in at if r.row == best]
    newest = max(of_best, key=lambda r: r.finished)
    return [r for r in of_best if r.classes == newest.classes]


def mean_confusion(results: Sequence[Result]) -> np.ndarray:
    """Percent (n, n): each row divided by its number of test images, then the mean over results; nan without images."""
    counts = np.asarray([r.confusion for r in results], dtype=np.float64)  # (seeds, n, n)
    totals = counts.sum(2, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    seen = (totals > 0).sum(0)
    return np.divide(np.nansum(shares, 0), seen, out=np.full(counts.shape[1:], np.nan), where=seen > 0)


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
        panel.set_title(title, loc="left", fontsize=10.5, color=INK, pad=10)
        for i, j in np.ndindex(n, n) if n <= CELL_NUMBERS else ():
            value = share[i, j]
            if value >= 0.5:
                shade = "white" if value > 35 else INK
                panel.text(
                    j,
                    i,
                    f"{math.floor(value + 0.5)}",
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color=shade,
                    fontweight="bold" if i == j else "normal",
                )
        bar = figure.colorbar(image, ax=panel, shrink=0.7, aspect=28, pad=0.02, ticks=[0, 5, 20, 50, 100])
        bar.set_label("Share of the true class (%)", fontsize=9)
        bar.ax.tick_params(labelsize=8, length=2)
        bar.outline.set_visible(False)
    return png.getvalue()
