"""Where numbers go while training: `metrics.csv` always, TensorBoard when asked."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import IO, Any

from rsssl.engine.files import write_atomic

log = logging.getLogger(__name__)


class Tracker:
    """Appends rows of numbers to `<folder>/metrics.csv` and mirrors them to TensorBoard.

    A resumed run first drops the rows after its checkpoint, so no step stands twice.

    Args:
        tensorboard: also write event files to `<folder>/tensorboard`.
    """

    COLUMNS = ("step", "epoch", "name", "value")

    def __init__(self, tensorboard: bool) -> None:
        self.tensorboard = tensorboard
        self._file: IO[str] | None = None
        self._writer: Any = None

    def open(self, folder: Path, step: int = 0) -> Tracker:
        """Starts, or goes on after `step` steps, in `folder`."""
        path = folder / "metrics.csv"
        rows = [r.values() for r in read_metrics(path) if int(r["step"]) <= step] if step else []
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.COLUMNS, *rows])
        write_atomic(path, text.getvalue().encode())
        self._file = open(path, "a", newline="")  # noqa: SIM115 - closed in close()
        if self.tensorboard:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter

                self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            except ImportError:
                log.warning("TensorBoard is not installed: pip install tensorboard, or type tracker=csv")
        return self

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Writes the values by their names, of the time after `step` steps; nothing when it is not open."""
        if self._file is None:
            return
        rows = csv.writer(self._file, lineterminator="\n")
        for name, value in values.items():
            rows.writerow([step, epoch, name, f"{value:.6g}"])
            if self._writer is not None:
                self._writer.add_scalar(name, value, step)
        self._file.flush()

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Shows pixels, a (H, W, 3) uint8 array, in TensorBoard, if that is asked for."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Ends it, if it is open."""
        for output in (self._file, self._writer):
            if output is not None:
                output.close()
        self._file = self._writer = None


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a `metrics.csv`; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(lines) if row.get("value") not in (None, "")]
