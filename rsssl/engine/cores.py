"""How many cores this process may use, how many of them other work has taken, and how torch's threads live with that.

At the end of every operation of a network all threads wait for the last one, and while they wait they spin, on cores
that this last one needs where other work is about: a training becomes many times slower. As many threads as cores are
free are fastest; those that spin for some microseconds and then sleep stand still nowhere when other work comes later
(experiments/busy).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path

from rsssl.engine.ranks import launched_by_torchrun

log = logging.getLogger(__name__)
SPINS = "3000"  # of a thread that waits, before it sleeps
WINDOW = 0.25  # seconds in which other work is looked for
GROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: those it is bound to, or its share of the machine where that is less."""
    return max(1, int(min(len(bound()), quota())))


def bound() -> set[int]:
    """The cores that this process is bound to."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def quota(groups: Path = GROUPS, process: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that the control groups of a container or a cluster's job allow (cgroup v2)."""
    try:
        own = next(line[3:] for line in process.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return math.inf
    least, folder = math.inf, groups / own.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(groups):
            break
        try:
            allowed, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if allowed != "max":
            least = min(least, int(allowed) / int(period))
    return least


def busy(of: set[int], stat: Path = Path("/proc/stat")) -> float:
    """Seconds that these cores have worked since the machine was started; 0 where the system does not say."""
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return 0.0
    worked = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle, not waiting for a disk
    ticks = sum(sum(int(line[1 + i]) for i in worked) for line in lines if line[0] in {f"cpu{n}" for n in of})
    return ticks / os.sysconf("SC_CLK_TCK")


def others() -> float:
    """Cores' worth of work that other processes do now on the cores of this one."""
    of, begin = bound(), time.monotonic()
    before, own = busy(of), time.process_time()
    time.sleep(WINDOW)
    worked = busy(of) - before - (time.process_time() - own)
    return max(0.0, worked / (time.monotonic() - begin))


def let_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets threads that wait long sleep; before torch is loaded, and where nobody has chosen."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = SPINS


def chosen() -> bool:
    """Whether somebody else has said how many threads there are."""
    return "OMP_NUM_THREADS" in os.environ or launched_by_torchrun()


@cache
def choose_threads() -> None:
    """Lets torch use no more threads than cores are free for it; says so. Once a process.

    Nothing is changed where OMP_NUM_THREADS or torchrun has chosen, and they never become more.
    """
    import torch

    usual = torch.get_num_threads()
    if chosen() or usual == 1:
        return
    everything, allowed = len(bound()), cores()
    threads = max(1, min(usual, allowed, round(everything - others())))
    if threads == usual:
        return
    torch.set_num_threads(threads)
    n = everything - threads
    why = f"{n} of {everything} cores {'is' if n == 1 else 'are'} busy with other work"
    if threads == allowed < everything:
        why = f"this process may use {allowed} of {everything} cores"
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    log.info("%s: %s; OMP_NUM_THREADS=%d takes %s", why, count, usual, "both" if usual == 2 else "all")


def keep_threads(before: int) -> None:
    """Lets torch use as many threads as the training that is resumed: what is summed up in parts depends on it in the
    last bits. Nothing is changed where somebody has chosen, or where there are fewer cores."""
    import torch

    if chosen() or before in (now := torch.get_num_threads(), 0) or before > cores():
        return
    torch.set_num_threads(before)
    log.info(
        "%d thread%s, as before, in place of %d: so the training ends as if it had not stopped",
        before,
        "s" * (before > 1),
        now,
    )
