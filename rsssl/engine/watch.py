"""A watch over several ranks: when the training stands still, it says which rank is at fault, and ends this one. When
torchrun itself has ended, the ranks are asked to stop.

Each rank publishes, once a second, a count of its seconds and how many exchanges it has begun. All ranks begin the same
exchanges in the same order, so the rank that has begun the fewest is the one that the others wait for; and a rank whose
count stands still is dead, frozen or cut off.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from rsssl.engine.distributed import LostRank, group
from rsssl.engine.ranks import rank, world_size
from rsssl.engine.stop import StopRequests

EXIT_CODE = 75  # "temporary failure": what torchrun --max-restarts starts again
FIRST_STEP = 6  # times as long until the first step is done, which may have much to load and to compile
SILENCE = 5.0  # seconds without a sign of life


class Sign(NamedTuple):
    """What a rank publishes: its seconds counted, the exchanges it has begun, and its host and process."""

    seconds: int
    exchanges: int
    place: str


class Watch:
    """Open while a training runs on several ranks; does nothing for one.

    Args:
        seconds: without progress of this rank, before it ends.
        requests: where a stop is asked for.
    """

    def __init__(self, seconds: float, requests: StopRequests) -> None:
        self.seconds, self.requests = seconds, requests
        self.started = False  # set after the first step
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if world_size() > 1:
            self._store: Any = torch.distributed.distributed_c10d._get_default_store()
            self.rank, self.ranks = rank(), world_size()
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join(2)
            if exc and isinstance(exc[1], LostRank):
                raise LostRank(f"{self._fault()}: {exc[1]}") from exc[1]

    def _work(self) -> None:
        place = f"host {socket.gethostname()}, process {os.getpid()}"
        progress_at, exchanges, seconds, reachable = time.monotonic(), -1, 0, True
        while not self._end.wait(1.0):
            seconds += 1
            if os.getppid() != group.parent and self.requests.received is None:
                self._say(": torchrun has ended; stopping")
                self.requests.received = signal.SIGTERM
            try:
                if reachable:
                    self._store.set(f"rsssl/{self.rank}", f"{seconds} {group.exchanges} {place}")
            except RuntimeError:  # the store's host is gone: the exchanges will fail as well
                reachable = False
            if group.exchanges != exchanges:
                progress_at, exchanges = time.monotonic(), group.exchanges
            elif time.monotonic() - progress_at > self.seconds * (1 if self.started else FIRST_STEP):
                # the store may be on a machine that is gone: do not wait for it for ever
                threading.Timer(3 * SILENCE, os._exit, [EXIT_CODE]).start()
                self._say(
                    f" has made no progress for {self.seconds:.0f} s; {self._fault()}. It ends now; the same command "
                    "goes on from the last checkpoint (timeout=SECONDS sets how long to wait)"
                )
                os._exit(EXIT_CODE)

    def _say(self, text: str) -> None:
        print(f"rsssl: rank {self.rank}{text}", file=sys.stderr, flush=True)

    def _signs(self) -> dict[int, Sign]:
        """What the ranks have published."""
        signs = {}
        with suppress(RuntimeError):  # the store's host is gone
            for number in range(self.ranks):
                if self._store.check([f"rsssl/{number}"]):
                    seconds, exchanges, place = self._store.get(f"rsssl/{number}").decode().split(" ", 2)
                    signs[number] = Sign(int(seconds), int(exchanges), place)
        return signs

    def _fault(self) -> str:
        """Who is at fault, by two looks at the signs some seconds apart."""
        before = self._signs()
        time.sleep(SILENCE)
        after = self._signs()
        others = [r for r in range(self.ranks) if r != self.rank]
        silent = [r for r in others if r not in after or (r in before and after[r].seconds == before[r].seconds)]
        if silent:
            return f"no sign of life from {named(silent, after)}"
        fewest = min(sign.exchanges for sign in after.values())
        behind = [r for r, sign in after.items() if sign.exchanges == fewest]
        if len(behind) < self.ranks:
            return f"the others wait for {named(behind, after)}"
        return "all ranks are in the same exchange: look at the network between the machines"


def named(ranks: list[int], signs: dict[int, Sign]) -> str:
    """The ranks with their hosts and processes, where these are known."""
    return ", ".join(f"rank {rank} ({signs[rank].place})" if rank in signs else f"rank {rank}" for rank in ranks)
