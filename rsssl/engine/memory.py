"""Memory that a process has used once stays with it: the C library would give large blocks back after each use."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

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
