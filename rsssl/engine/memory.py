"""Memory that a process has had once is kept: the C library would give large blocks back after each use."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


@cache
def keep() -> bool:
    """Tells glibc to reuse freed memory; True where that is possible.

    Each step of a training on a CPU frees and takes hundreds of MB. By default a large block goes back to the system when
    freed and comes again as pages of zeros, one fault each: a fifth of the time of making views, a twentieth of a step.
    The peak stays what it was; what was freed after it is not given back.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(
        mallopt(ctypes.c_int(k), ctypes.c_int(v))
        for k, v in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
    )
