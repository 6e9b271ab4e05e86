"""Where numbers go while training: to `metrics.csv` always, and from there to what `tracker=` names (trackers.py)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from rsssl.engine.files import write_atomic
from rsssl.errors import UserError

Numbers = dict[str, float]
Self = TypeVar("Self", bound="Tracker")


class Tracker:
    """Appends rows of numbers to `<folder>/metrics.csv`.

    A resumed run first drops the rows after its checkpoint, so no step stands twice. One that sends them elsewhere too
    is a subclass, which defines `begin`, `send`, `show` and `end`; a constructor only keeps what it is given.
    """

    COLUMNS = ("step", "epoch", "name", "value")
    needs: ClassVar[str] = ""  # the package that it needs, and the name of our extra that brings it

    def __init__(self) -> None:
        self.name, self.config = "", dict[str, Any]()
        self._file: IO[str] | None = None

    @classmethod
    def refuse_missing(cls) -> None:
        """Raises UserError when the package that it needs is not installed."""
        if cls.needs and find_spec(cls.needs) is None:
            raise UserError(
                f"tracker={cls.needs} needs the package {cls.needs}, which is not installed: type pip install "
                f"'rsssl[{cls.needs}]', or tracker=csv"
            )

    def describe(self, name: str, config: Mapping[str, Any]) -> None:
        """What the training is called, and what it was configured with; before `open`."""
        self.name, self.config = name, dict(config)

    def open(self: Self, folder: Path, step: int = 0) -> Self:
        """Starts, or goes on after `step` steps, in `folder`."""
        path = folder / "metrics.csv"
        rows = [row for row in read_metrics(path) if int(row["step"]) <= step] if step else []
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.COLUMNS, *(row.values() for row in rows)])
        write_atomic(path, text.getvalue().encode())
        before: dict[int, Numbers] = {}
        for row in rows:
            before.setdefault(int(row["step"]), {})[row["name"]] = float(row["value"])
        self.begin(folder, step, before)
        self._file = open(path, "a", newline="")  # noqa: SIM115 - closed in close()
        return self

    def log(self, step: int, epoch: int, values: Numbers) -> None:
        """Writes the values by their names, of the time after `step` steps; nothing when it is not open."""
        if self._file is None:
            return
        rows = csv.writer(self._file, lineterminator="\n")
        rows.writerows([step, epoch, name, f"{value:.6g}"] for name, value in values.items())
        self._file.flush()
        self.send(step, values)

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Shows pixels, a (H, W, 3) uint8 array; nothing when it is not open."""
        if self._file is not None:
            self.show(step, name, pixels)

    def close(self, finished: bool = True) -> None:
        """Ends it, if it is open; `finished`: the training has come to its end."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.end(finished)

    def begin(self, folder: Path, step: int, before: Mapping[int, Numbers]) -> None:
        """Starts, or goes on after `step` steps; `before`: the numbers up to there, by their step."""

    def send(self, step: int, values: Numbers) -> None:
        """Takes numbers."""

    def show(self, step: int, name: str, pixels: Any) -> None:
        """Takes a picture."""

    def end(self, finished: bool) -> None:
        """Lets go of everything."""


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a `metrics.csv`; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(lines) if row.get("value") not in (None, "")]
