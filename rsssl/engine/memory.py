"""Memory: how much there is for a training, and how what was used once stays with the process."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


@cache
def keep() -> bool:
    """Tells glibc to reuse freed memory; True where that is possible.

    Each step of a training on a CPU frees and takes hundreds of MB. By default a large block goes back to the system
    when it is freed, and the next one comes as pages of zeros, with one page fault each: a fifth of the time of making
    views, a twentieth of a step. The peak of memory is the same; what is freed after the peak is not given back.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
    return all(mallopt(ctypes.c_int(option), ctypes.c_int(value)) for option, value in options.items())


def give_back() -> None:
    """Gives what the C library keeps for later (see `keep`) back to the system, where that is possible."""
    if keep():
        ctypes.CDLL(None).malloc_trim(0)


def available(device: torch.device) -> int:
    """Bytes that this process can still take: of the device, or of the machine within the limits that are set here.

    Looked at are what the system has free, the limits of control groups (containers, systemd-run, SLURM), and the
    process's own limit of address space (ulimit -v).
    """
    gc.collect()
    if device.type == "cuda":  # what torch holds for later counts as free
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    give_back()
    bounds = [_free(), *_of_groups()]
    if resource is not None:
        most, used = resource.getrlimit(resource.RLIMIT_AS)[0], _status("VmSize")
        if most != resource.RLIM_INFINITY:
            bounds.append(most - used)
    return max(0, min(bounds))


def _free() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return sys.maxsize  # not Linux: nothing is known


def _of_groups() -> list[int]:
    """What each control group of this process leaves it: version 2, else version 1."""
    bounds = []
    for line in _lines("/proc/self/cgroup"):
        _, kinds, path = line.strip().split(":", 2)
        if kinds == "":
            root, most, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            root, most, used = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            limit, taken = (_lines(group / name)[:1] for name in (most, used))
            if limit and taken and limit[0].strip().isdigit():
                statistics = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
                cached = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))  # given up at need
                bounds.append(int(limit[0]) - int(taken[0]) + int(cached))
            if group == root:
                break
    return bounds


def _status(name: str) -> int:
    """A figure of this process in bytes, as the system tells it; 0 where it does not."""
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
