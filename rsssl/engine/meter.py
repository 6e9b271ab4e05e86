"""How fast a training goes: its progress bar, and the figures that are logged."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from rsssl.batch import Batch


class Meter:
    """Counts images and seconds since the last figures, and shows them at a progress bar.

    Args:
        title: what is trained; stands before the bar.
        step: steps already done.
        total: steps in all.
        visible: whether there is a bar.
    """

    def __init__(self, title: str, step: int, total: int, visible: bool) -> None:
        self._bar = tqdm(
            desc=title,
            initial=step,
            total=total,
            unit="step",
            disable=not visible,
            leave=False,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        self._step_ended = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Counts from here on: what was done before, such as a probe, is not part of the next figures."""
        self._images, self._waited, self._started = 0, 0.0, time.monotonic()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time until it is there counts as waiting for data."""
        begin = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - begin
        return batch

    def count(self, images: int) -> float:
        """Counts a step over that many images of all ranks; the seconds since the end of the step before."""
        before, self._step_ended = self._step_ended, time.monotonic()
        self._images += images
        self._bar.update()
        return self._step_ended - before

    def figures(self, loss: float) -> dict[str, float]:
        """Images per second, and the share of time spent waiting for data, since the last figures; shown at the bar.

        Args:
            loss: of the last step, which the bar shows beside them.
        """
        seconds = time.monotonic() - self._started
        speed, data_share = self._images / seconds, self._waited / seconds
        self._bar.set_postfix_str(f"loss {loss:.3f} {speed:.0f} images/s data {data_share:.0%}", refresh=False)
        self.restart()
        return {"images_per_second": speed, "data_share": data_share}

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()
