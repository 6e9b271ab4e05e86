"""Whether what was measured can be believed: who else worked on the machine, and whether it is as fast as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

BUSY = 0.1  # others may take this share of the time of one processor
APART = 0.2  # and the peaks differ by this from those on record


class Watch:
    """What other processes take of the processors, from when it is made on. It needs /proc; elsewhere it sees none."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _all_work(), _own_work()

    def others(self) -> float:
        """Processors that others have kept busy on average: 1 is one of them all the time. Of this process's children
        those that have ended are counted as its own."""
        start, everything, own = self._start
        taken = (_all_work() - everything) - (_own_work() - own)
        return max(0.0, taken) / (time.perf_counter() - start)


def _all_work() -> float:
    """Seconds that all processors have worked, or were withheld by the machine that hosts this one."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _own_work() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def busy(others: float) -> str:
    """Why a measurement beside `others` is not recorded; "" where it is."""
    return "" if others <= BUSY else f"other processes kept {others:.2f} processors busy: run it again alone"


def changed(peaks: dict[str, float], machine: dict[str, str], kept: dict[str, Any]) -> str:
    """What makes the figures of a run doubtful: its peaks beside those of the newest of the records `kept` (by module)
    that was taken on the same processor; "" where they agree or there is none."""
    same = [entry for entry in kept.values() if entry["machine"].get("CPU") == machine.get("CPU")]
    if not same:
        return ""
    last = max(same, key=lambda entry: entry["date"])["peaks"]
    apart = [
        f"{name} {now / last[key]:.2f} times"
        for key, name in (("flops", "a matrix product is"), ("bytes", "a copy is"))
        if not 1 - APART <= (now := peaks[key]) / last[key] <= 1 + APART
    ]
    return f"{' and '.join(apart)} as fast as in the record before" if apart else ""
