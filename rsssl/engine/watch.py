"""A watch over several ranks: when the training stands still, it says which rank is at fault, and ends this one. When
torchrun itself has ended, the ranks are asked to stop.

Each rank publishes, once a second, a count of its seconds and how many exchanges it has begun. All ranks begin the same
exchanges in the same order, so the rank that has begun the fewest is the one that the others wait for; and a rank whose
count stands still is dead, frozen or cut off.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import torch

from rsssl.engine import distributed
from rsssl.engine.stop import StopRequests

log = logging.getLogger(__name__)
EXIT = 75  # "temporary failure": what torchrun --max-restarts starts again
FIRST = 6  # times as long until the first step is done
SILENCE = 5.0  # seconds without a sign of life
Sign = tuple[int, int, str]  # seconds counted, exchanges begun, who


class Watch:
    """Open while a training runs on several ranks; does nothing for one.

    Args:
        seconds: without progress of this rank, before it ends.
        requests: where a stop is asked for.
    """

    def __init__(self, seconds: float, requests: StopRequests) -> None:
        self.seconds, self.requests = seconds, requests
        self.started = False  # set after the first step, which may have much to load and to compile
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if distributed.world_size() > 1:
            self._store: Any = torch.distributed.distributed_c10d._get_default_store()
            self.rank, self.ranks = distributed.rank(), distributed.world_size()
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join(2)
            if exc and isinstance(exc[1], distributed.LostRank):
                raise distributed.LostRank(f"{self.suspects(self._signs(), self._later())}: {exc[1]}") from exc[1]

    def _work(self) -> None:
        who = f"host {socket.gethostname()}, process {os.getpid()}"
        moved, seen, count, reachable = time.monotonic(), -1, 0, True
        while not self._end.wait(1.0):
            count += 1
            if os.getppid() != distributed.parent and self.requests.received is None:
                print(f"rsssl: rank {self.rank}: torchrun has ended; stopping", file=sys.stderr, flush=True)
                self.requests.received = signal.SIGTERM
            try:
                if reachable:
                    self._store.set(f"rsssl/{self.rank}", f"{count} {distributed.entered} {who}")
            except RuntimeError:  # the store's host is gone: the exchanges will fail as well
                reachable = False
            if distributed.entered != seen:
                moved, seen = time.monotonic(), distributed.entered
            elif time.monotonic() - moved > self.seconds * (1 if self.started else FIRST):
                threading.Timer(3 * SILENCE, os._exit, [EXIT]).start()  # the store may be on a machine that is gone
                print(
                    f"rsssl: rank {self.rank} has made no progress for {self.seconds:.0f} s; "
                    f"{self.suspects(self._signs(), self._later())}. Ending it; the same command goes on from the last "
                    "checkpoint (timeout=SECONDS sets how long to wait)",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT)

    def _signs(self) -> dict[int, Sign]:
        """What the ranks have published."""
        signs = {}
        for rank in range(self.ranks):
            key = f"rsssl/{rank}"
            try:
                if self._store.check([key]):
                    count, entered, who = self._store.get(key).decode().split(" ", 2)
                    signs[rank] = (int(count), int(entered), who)
            except RuntimeError:
                break
        return signs

    def _later(self) -> dict[int, Sign]:
        time.sleep(SILENCE)
        return self._signs()

    def suspects(self, before: dict[int, Sign], after: dict[int, Sign]) -> str:
        """Who is at fault, by two looks at the signs some seconds apart."""
        others = [r for r in range(self.ranks) if r != self.rank]
        silent = [r for r in others if r not in after or after[r][0] == before.get(r, (-1,))[0]]
        if silent:
            return "no sign of life from " + ", ".join(named(r, after) for r in silent)
        least = min(sign[1] for sign in after.values())
        behind = [r for r, sign in after.items() if sign[1] == least]
        if len(behind) < self.ranks:
            return "the others wait for " + ", ".join(named(r, after) for r in behind)
        return "all ranks are in the same exchange: look at the network between the machines"


def named(rank: int, signs: dict[int, Sign]) -> str:
    return f"rank {rank} ({signs[rank][2]})" if rank in signs else f"rank {rank}"
