"""The plots of README.md, made of the CSVs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import amount
import budget
import distance
import numpy as np
import protocol
import signals
from runs import TS, Table
from tables import Rows, grouped, values

from rsssl.report.figures import PALETTE, canvas

GREY = "#6b6b6b"
STARTS = {"random": PALETTE[1], "imagenet": PALETTE[0]}
LINES = {"3": "--", "vit_tiny_p8": "-."}  # of starts, by depths or network
USUAL = ("resnet10t", "lite0")  # networks that the plot of question 1 need not name
NAMES = {"random": "from random weights", "imagenet": "from ImageNet"}


def deviation(numbers: list[float]) -> float:
    """Sample standard deviation; 0 of one number."""
    return stdev(numbers) if len(numbers) > 1 else 0.0


def tidy(panel: Any, title: str, x: str, y: str = "") -> None:
    """Title, labels, a faint grid."""
    panel.set_title(title, loc="left", fontsize=11, fontweight="bold")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(color="#e6e6e6")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def of_methods(rows: Rows, start: str) -> dict[tuple[str, ...], Rows]:
    """The rows of each method and network from a start."""
    return grouped([r for r in rows if r["start"] == start], "method", "network")


def signals_plot(folder: Path) -> bytes:
    """Accuracy with 20 labels of each method, from both starts; lines where the starts are."""
    rows = signals.table(signals.planned(folder)).find(pretrain_seed=0)
    beside = ("none", signals.STATISTICS)
    with canvas(10, 5.2) as (figure, png):
        for panel, start in zip(figure.subplots(1, 2), STARTS, strict=True):
            cells = {c: values(r, ts=20) for c, r in of_methods(rows, start).items()}
            methods = sorted((c for c in cells if c[0] not in beside and cells[c]), key=lambda c: mean(cells[c]))
            for height, cell in enumerate(methods):
                panel.errorbar(
                    *(mean(cells[cell]), height),
                    xerr=deviation(cells[cell]),
                    **{"fmt": "o", "capsize": 2.5, "color": STARTS[start], "markersize": 6},
                )
            names = [method if network in USUAL else f"{method} ({network})" for method, network in methods]
            panel.set_yticks(range(len(methods)), names)
            for (method, network), found in cells.items():
                if method in beside and found:
                    style = LINES.get(network.partition("@")[2] or network, "-") if method == "none" else ":"
                    label = "image statistics" if method == signals.STATISTICS else f"{network}, as it starts"
                    panel.axvline(mean(found), color=GREY, linestyle=style, linewidth=1.2, label=label)
            tidy(panel, NAMES[start], "accuracy, 20 labels a class (%)")
            if cells:
                panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
        caption(figure, "Bars: one sample standard deviation over draws of labels.")
    return png.getvalue()


def caption(figure: Any, text: str) -> None:
    """A small line below."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=GREY)


def protocol_plot(folder: Path) -> bytes:
    """What the choice of the epoch is worth, by the accuracy without it."""
    rows = protocol.table(signals.planned(folder)).rows()
    with canvas(6.8, 4) as (figure, png):
        panel = figure.subplots()
        for colour, ts in zip(PALETTE, TS, strict=False):
            some = [r for r in rows if r["ts"] == str(ts)]
            panel.scatter(
                values(some, "oa_last_epoch"),
                protocol.worth(some),
                s=22,
                color=colour,
                label=f"{ts} labels a class",
                alpha=0.8,
            )
        panel.axhline(0, color=GREY, linewidth=1)
        tidy(panel, "The best epoch on test images", "accuracy after the last epoch (%)", "points that the choice adds")
        panel.legend(fontsize=8)
    return png.getvalue()


def budget_plot(folder: Path) -> bytes:
    """Once and four times the time."""
    once = signals.table(signals.planned(folder)).find(start="random", pretrain_seed=0)
    longer = [r for r in budget.table(signals.planned(folder)).rows() if r["part"] == "budget"]
    start = values([r for r in once if r["network"] == "resnet10t"], method="none", ts=20)
    with canvas(6.8, 4) as (figure, png):
        panel = figure.subplots()
        for colour, method in zip([*PALETTE, GREY], budget.METHODS, strict=True):
            found = [values(rows, method=method, ts=20) for rows in (once, longer)]
            points = [(x, f) for x, f in zip((1, budget.LONGER), found, strict=True) if f]
            panel.errorbar(
                [x for x, _ in points],
                [mean(f) for _, f in points],
                yerr=[deviation(f) for _, f in points],
                **{"marker": "o", "capsize": 2.5, "color": colour, "label": method},
            )
        if start:
            panel.axhline(mean(start), color=GREY, linestyle="--", linewidth=1.2, label="random network")
            panel.set_ylim(bottom=mean(start) - 2)
        panel.set_xscale("log")
        panel.set_xticks([1, budget.LONGER], ["once", f"{budget.LONGER} times"])
        panel.minorticks_off()
        tidy(panel, "More time from random weights", "the time of signals.py", "accuracy, 20 labels a class (%)")
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return png.getvalue()


def distance_plot(folder: Path) -> bytes:
    """Points lost over the distance of the pools, a line for each target; the points say the source."""
    pairs = distance.losses(folder, 20)
    with canvas(10, 7.2) as (figure, png):
        panels = figure.subplots(2, 2, sharex="row", sharey="col")
        for row, measure in zip(panels, ("features", "bands"), strict=True):
            for panel, start in zip(row, STARTS, strict=True):
                for colour, target in zip(PALETTE, distance.DATASETS, strict=False):
                    some = [p for p in pairs if (p["start"], p["target"]) == (start, target)]
                    points = sorted((float(p[measure]), float(p["lost"]), str(p["source"])) for p in some)
                    label = f"tested on {target.split('_')[0]}"
                    panel.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=colour, label=label)
                    for x, y, source in points:
                        name = source.split("_")[0]
                        panel.annotate(
                            name, (x, y), fontsize=7, color=colour, xytext=(4, 4), textcoords="offset points"
                        )
                panel.axhline(0, color=GREY, linewidth=1)
                panel.margins(x=0.15)
                tidy(panel, f"{NAMES[start]}, by {measure}", f"Frechet distance of {measure}", "points lost, 20 labels")
        panels[0, 0].legend(fontsize=8)
    return png.getvalue()


def amount_plot(folder: Path) -> bytes:
    """Accuracy over the number of images, with the fit over its logarithm."""
    with canvas(10, 4.2) as (figure, png):
        for panel, start in zip(figure.subplots(1, 2), STARTS, strict=True):
            for colour, equal in zip(PALETTE, ("steps", "epochs"), strict=False):
                rows = amount.amount_rows(folder, start, equal)
                pools = [n for n in amount.POOLS if values(rows, images=n, ts=20)]
                found = [values(rows, images=n, ts=20) for n in pools]
                label = f"equal {equal}"
                if slope := amount.slope(rows, 20):
                    label += f": {slope[0]:+.2f} ± {slope[1]:.2f} a doubling"
                    x = np.log2([float(r["images"]) for r in rows if r["ts"] == "20"])
                    line = np.polyfit(x, values(rows, ts=20), 1)
                    panel.plot(pools, np.polyval(line, np.log2(pools)), color=colour, linewidth=1, linestyle="--")
                panel.errorbar(
                    pools,
                    [mean(f) for f in found],
                    yerr=[deviation(f) for f in found],
                    **{"fmt": "o", "capsize": 2.5, "color": colour, "label": label},
                )
            panel.set_xscale("log")
            panel.set_xticks(amount.POOLS, [f"{n:,}" for n in amount.POOLS])
            panel.minorticks_off()
            tidy(panel, NAMES[start], "images without labels", "accuracy, 20 labels a class (%)")
            if panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize=8, loc="lower right")
        caption(figure, "Bars: one sample standard deviation over draws of labels. Dashed: least squares over log2.")
    return png.getvalue()


PLOTS: dict[str, tuple[Callable[[Path], bytes], str]] = {  # by the CSV whose rows they show
    "signals": (signals_plot, "Accuracy of each method with 20 labels a class, from both starts"),
    "distance": (distance_plot, "Points lost over the distance of the pools"),
    "amount": (amount_plot, "Accuracy over the number of unlabelled images"),
    "protocol": (protocol_plot, "Points that the choice of the epoch on test images adds"),
    "budget": (budget_plot, "Accuracy after once and four times the time"),
}


def drawn(folder: Path, name: str) -> bool:
    """Whether there is something to show: a network that was trained, or any by the paper's protocol."""
    rows = Table(folder / f"{name}.csv", ()).rows()
    return any(name == "protocol" or row["artifact"] for row in rows)


def image(folder: Path, name: str) -> str:
    """The plot in README.md."""
    return f"![{PLOTS[name][1]}]({name}.png)" if drawn(folder, name) else "Nothing to plot yet."
