"""How far a long step is: a bar in a terminal; elsewhere, as in a cluster's log, a plain line every half minute."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rsssl.engine.ranks import rank

log = logging.getLogger(__name__)
Item = TypeVar("Item")
EVERY = 30.0  # seconds between two lines
MEGA = 1e6


class Progress:
    """Counts what a long step has done, and shows it where this is rank 0.

    In a terminal by a bar, which goes when the step ends; elsewhere by a line from time to time:

        mapping coast: 12,345 of 40,000 windows (31 %), 410 windows/s, 1 min 7 s left

    A step that took longer than the time between two lines has a last one in both places. The rate is the one since the
    line before, and what an earlier attempt has done is no part of it.

    Args:
        title: what is done.
        total: units in all; None where that is not known.
        unit: what is counted, in the plural; "bytes" are shown as MB.
        done: units that an earlier attempt has done.
        visible: False to show nothing.
        every: seconds between two lines.
    """

    def __init__(
        self, title: str, total: int | None, unit: str, done: int = 0, visible: bool = True, every: float = EVERY
    ) -> None:
        self.title, self.total, self.unit, self.every = title, total, unit, every
        self.done = self._begun_with = self._said = done
        self.note = ""
        self._begun_at = self._said_at = time.monotonic()
        self._visible = visible and rank() == 0
        self._bar = self._new_bar() if self._visible and sys.stderr.isatty() else None

    def _new_bar(self) -> Any:
        from tqdm import tqdm

        scale = {"unit": "B", "unit_scale": True} if self.unit == "bytes" else {"unit": f" {self.unit}"}
        shown = {"leave": False, "dynamic_ncols": True, "delay": 0.5}  # a short step shows none
        return tqdm(total=self.total, initial=self.done, desc=self.title, **scale, **shown)

    def update(self, n: int = 1) -> None:
        """Counts n more units."""
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._visible and (now := time.monotonic()) - self._said_at >= self.every and self.done != self.total:
            say(self._line(now - self._said_at))
            self._said, self._said_at = self.done, now

    def describe(self, note: str) -> None:
        """What else there is to say of the step, from now on."""
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)

    def close(self, whole: bool = True) -> None:
        """Takes the bar away; `whole`: the step has come to its end."""
        if self._bar is not None:
            self._bar.close()
        seconds, n = time.monotonic() - self._begun_at, self.done - self._begun_with
        if whole and self._visible and n and seconds > self.every:
            say(f"{self.title}: {amount(n, self.unit)} in {duration(seconds)}, {rate(n, seconds, self.unit)}")
        self._visible = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(whole=kind is None)

    def _line(self, seconds: float) -> str:
        """How far it is, when what was done since the line before took so many seconds."""
        n = self.done - self._said
        if self.total:
            share = f"{100 * self.done / self.total:.0f} %"
            parts = [f"{number(self.done, self.unit)} of {amount(self.total, self.unit)} ({share})"]
        else:
            parts = [amount(self.done, self.unit)]
        parts.append(rate(n, seconds, self.unit))
        if self.total and n:
            parts.append(f"{duration(seconds / n * (self.total - self.done))} left")
        return f"{self.title}: {', '.join(parts)}{self.note and f'; {self.note}'}"


def followed(items: Iterable[Item], title: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """The same items, with their progress shown; their number is `total` where they do not know it themselves."""
    if total is None and isinstance(items, Collection):
        total = len(items)
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


def say(line: str) -> None:
    """A line in the log, or on stderr where nobody has set up a log."""
    if log.hasHandlers() and log.isEnabledFor(logging.INFO):
        log.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)


def number(n: float, unit: str) -> str:
    return f"{n / MEGA:,.1f}" if unit == "bytes" else f"{n:,.0f}"


def amount(n: float, unit: str) -> str:
    return f"{number(n, unit)} {'MB' if unit == 'bytes' else unit}"


def rate(n: float, seconds: float, unit: str) -> str:
    """n units in so many seconds: by the second, or by the minute or hour where that would be less than one."""
    scaled = n / MEGA if unit == "bytes" else n
    each = {per: scaled * length / max(seconds, 1e-9) for per, length in (("s", 1), ("min", 60), ("h", 3600))}
    per = next((per for per, value in each.items() if value >= 1), "h")
    value = each[per]
    return f"{value:,.{0 if value >= 10 else 1}f} {'MB' if unit == 'bytes' else unit}/{per}"


def duration(seconds: float) -> str:
    """45 s, 1 min 7 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")
