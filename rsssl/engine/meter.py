"""How fast a training goes: its progress, the figures that are logged, and a warning when it goes much slower."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from statistics import median

from rsssl.batch import Batch
from rsssl.engine.progress import Progress, duration

log = logging.getLogger(__name__)
FIRST = 10  # steps, after one that warms up, whose time others are compared with
SLOWER = 4.0  # times as long as the first steps is slow
PATIENCE = 30.0  # seconds of slow steps, one after another


class Meter:
    """Counts images and seconds since the last figures, and shows them with the progress.

    Args:
        title: what is trained; stands before the progress.
        step: steps already done.
        total: steps in all.
        visible: whether progress is shown.
    """

    def __init__(self, title: str, step: int, total: int, visible: bool) -> None:
        self.progress = Progress(title, total, "steps", step, visible)
        self._pace = Pace(title) if visible else None
        self._step_ended = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Counts from here on: what was done before, such as a probe, is not part of the next figures."""
        self._images, self._waited, self._started = 0, 0.0, time.monotonic()
        self._step_began = self._started

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time until it is there counts as waiting for data."""
        begin = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - begin
        return batch

    def count(self, images: int, pixels: int = 1) -> float:
        """Counts a step; the seconds since the end of the step before.

        Args:
            images: of all ranks.
            pixels: of a view, which most of a step's time follows from.
        """
        before, self._step_ended = self._step_ended, time.monotonic()
        if self._pace:
            self._pace.step(self._step_ended - self._step_began, pixels)
        self._step_began = self._step_ended
        self._images += images
        self.progress.update()
        return self._step_ended - before

    def figures(self, loss: float) -> dict[str, float]:
        """Images per second, and the share of time spent waiting for data, since the last figures; shown with the
        progress.

        Args:
            loss: of the last step, which is shown beside them.
        """
        seconds = time.monotonic() - self._started
        speed, data_share = self._images / seconds, self._waited / seconds
        self.progress.describe(f"loss {loss:.3f}, {speed:.3g} images/s, {100 * data_share:.0f} % waiting for data")
        self.restart()
        return {"images_per_second": speed, "data_share": data_share}

    def close(self) -> None:
        """Takes the progress away."""
        self.progress.close()


class Pace:
    """Warns once when steps have become much slower than the first ones were.

    Args:
        title: what is trained.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._first: list[float] = []  # seconds of a pixel
        self._slow = 0.0  # seconds that the last steps took, all of them slow
        self._warned = False

    def step(self, seconds: float, pixels: int) -> None:
        """Counts a step that took so many seconds, with views of so many pixels."""
        cost = seconds / pixels
        if len(self._first) <= FIRST:
            self._first.append(cost)
            return
        usual = median(self._first[1:])
        self._slow = self._slow + seconds if cost > SLOWER * usual else 0.0
        if self._slow > PATIENCE and not self._warned:
            self._warned = True
            calmer = (
                " Where that goes on, stop this (Ctrl-C) and type OMP_NUM_THREADS=1 before the same command, which "
                "takes up the last checkpoint"
            )
            log.warning(
                "%s: a step takes %s now, %.0f times as long as the first ones: type top to see what else is on the "
                "cores.%s",
                self.title,
                duration(seconds) if seconds >= 10 else f"{seconds:.1f} s",
                cost / usual,
                "" if os.environ.get("OMP_NUM_THREADS") == "1" else calmer,
            )
