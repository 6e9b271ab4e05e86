"""The loop of `reads.py` over the system's pread, compiled by numba, whose import takes a second.

It releases the interpreter's lock.
"""

# mypy: disable-error-code="no-untyped-def,operator,no-untyped-call,untyped-decorator"
from __future__ import annotations

from numba import njit, types

# Found by its name when it is loaded, so that what was compiled can be kept on disk.
pread = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))


@njit(nogil=True, cache=True)
def fill(files, offsets, order, places, memory):
    """Does what `reads.fill_in_python` does."""
    size, start = memory.shape[1], memory.ctypes.data
    for k in range(len(order)):
        i = order[k]
        got = 0
        while got < size:
            count = pread(files[i], start + places[i] * size + got, size - got, offsets[i] + got)
            if count <= 0:
                return k
            got += count
    return len(order)
