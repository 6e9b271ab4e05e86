"""The reliability diagram as PNG bytes: how often what a classifier says with some confidence is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsssl.report.figures import FAINT, PALETTE, canvas
from rsssl.report.results import Result

MOST = 6  # train scales that are shown


def reliability(columns: Mapping[str, Sequence[Result]], title: str) -> bytes:
    """A panel for each train scale: accuracy over confidence in bins, and how many test images are in each.

    Args:
        columns: by train scale the results of one row, one per seed, which all have a calibration.
        title: what is shown, one line.
    """
    shown = dict(list(columns.items())[:MOST])
    with canvas(2.7 * len(shown) + 0.6, 3.4) as (figure, png):
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for panel, (ts, results) in zip(panels, shown.items(), strict=True):
            draw(panel, results)
            panel.set_title(f"ts={ts}", loc="left", fontsize=10)
            panel.set_xlabel("Confidence (%)")
        panels[0].set_ylabel("Accuracy (%)")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return png.getvalue()


def draw(panel: Any, results: Sequence[Result]) -> None:
    """The bins of all seeds together: bars reach the accuracy, dots stand at (confidence, accuracy), and a bin's shade
    is its share of the images."""
    count, confidence, accuracy = bins(results)
    width, some = 100 / len(count), count > 0
    share = count / count.sum()
    panel.plot([0, 100], [0, 100], color="#8c8c8c", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for i in np.flatnonzero(some):
        shade = 0.15 + 0.75 * float(np.sqrt(share[i] / share.max()))
        panel.bar(i * width, accuracy[i], width, align="edge", color=PALETTE[0], alpha=shade, linewidth=0, zorder=2)
    panel.plot(confidence[some], accuracy[some], "o", color=PALETTE[1], markersize=4, zorder=3)
    names = {"ece": "error", "ece_before": "uncalibrated", "chance": "by chance"}
    known = [key for key in names if all(key in r.trust for r in results)]
    text = "\n".join(f"{names[key]} {100 * float(np.mean([r.trust[key] for r in results])):.1f}" for key in known)
    panel.text(3, 97, text, va="top", fontsize=8.5)
    panel.set_xlim(0, 100)
    panel.set_ylim(0, 100)
    panel.grid(color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def bins(results: Sequence[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean confidence and accuracy in percent of each bin, all results together; 0 where a bin is empty."""
    count = np.array([r.bins["count"] for r in results], np.float64)
    total = count.sum(0)
    means = []
    for key in ("confidence", "accuracy"):
        values = np.array([[v or 0.0 for v in r.bins[key]] for r in results])
        means.append(100 * (count * values).sum(0) / np.maximum(total, 1))
    return total, means[0], means[1]
