"""Being asked to stop: a signal is noted, and the training acts on it between two steps, or where it awaits images."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# What SLURM, a cloud and submitit send before they take a machine away (Windows has no such); and Ctrl-C.
SENT = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
SIGNALS = (*SENT, signal.SIGINT)

Handler = Callable[[int, FrameType | None], Any]


class Stopped(Exception):
    """The training has stopped because a signal asked for it.

    Args:
        signum: the signal.
        step: after which it stopped.
        total: steps in all.
        saved: whether a checkpoint was written.
        before: what the process would have done on this signal; a launcher's handler puts the job back into its queue.
    """

    def __init__(self, signum: int, step: int, total: int, saved: bool, before: Handler | None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step} of {total}")
        self.signum, self.saved, self.before = signum, saved, before


class AskedInVain(Exception):
    """A signal came while the training waited for images, which may never come."""


class StopRequests:
    """Notes signals while it is open. A second Ctrl-C ends the process at once: it raises KeyboardInterrupt.

    A signal that came too late to be acted on, during the last step, is sent again when it closes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}
        self._waiting = False

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():  # elsewhere, Python takes no handlers
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and self.received is not None:  # another signal may have come since
            error.signum, error.before = self.received, self._handler(self.received)
        if kind is None and self.received is not None:
            signal.raise_signal(self.received)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        # SLURM sends SIGTERM before or after a launcher's own signal, and that one counts.
        if self.received is None or signum != signal.SIGTERM:
            self.received = signum
        if self._waiting:
            self._waiting = False  # another signal must not cut the end short
            raise AskedInVain

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done in it ends at once when a signal comes, or has come before: it raises AskedInVain."""
        try:
            self._waiting = True
            if self.received is not None:
                raise AskedInVain
            yield
        finally:
            self._waiting = False

    def flags(self) -> list[float]:
        """For each of SIGNALS, 1 when it has been received, else 0: what the ranks add up."""
        return [float(number == self.received) for number in SIGNALS]

    def stopped(self, flags: list[float], step: int, total: int, saved: bool) -> Stopped | None:
        """What the ranks have agreed on; None when no rank was asked to stop.

        Args:
            flags: of all ranks, added up.
            step: steps done.
            total: steps in all.
            saved: whether a checkpoint is written now.
        """
        if not any(flags):
            return None
        signum = int(SIGNALS[flags.index(max(flags))])
        return Stopped(signum, step, total, saved, self._handler(signum))

    def _handler(self, signum: int) -> Handler | None:
        before = self.before.get(signum)
        return before if callable(before) and signum != signal.SIGINT else None
