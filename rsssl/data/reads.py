"""Scattered reads: rows of files of equal rows, several at a time, straight into the memory of a batch.

A few threads take a part of the rows each, in the order in which they lie in the files. Their loop is compiled
(pread.py): a row costs no Python, and the threads do not wait for each other.
"""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from concurrent.futures import wait
from functools import cache

import numpy as np

from rsssl.threads import lasting

THREADS = 8  # reads in flight, one of them by the thread that asks; experiments/scale shows what more and fewer give
FEW = 16  # rows that are not worth a second thread
_threads = lasting(THREADS - 1, "reads")


def read_rows(
    descriptors: int | np.ndarray, rows: np.ndarray, size: int, out: np.ndarray, places: np.ndarray | None = None
) -> None:
    """Reads rows of `size` bytes.

    Args:
        descriptors: the file of all rows, or (n,) the file of each; they stay open for the time of the call.
        rows: (n,) which row of its file each is.
        size: bytes of a row.
        out: C-contiguous, (m, ...) of `size` bytes each.
        places: (n,) where in `out` each row goes; None: row i to out[i].

    Raises:
        OSError: naming the file that cannot be read or has become shorter.
        ValueError: when `out` has no such places.
    """
    n = len(rows)
    places = np.arange(n) if places is None else np.ascontiguousarray(places, np.int64)
    if not out.flags.c_contiguous or out.nbytes != len(out) * size:
        raise ValueError(f"{out.shape} {out.dtype} has no rows of {size} bytes one after the other")
    if len(places) != n or (n and not 0 <= places.min() <= places.max() < len(out)):
        raise ValueError(f"{n} rows do not go into {len(out)} places")
    if n == 0 or size == 0:
        return
    memory = out.reshape(len(out), -1).view(np.uint8)
    files = np.ascontiguousarray(np.broadcast_to(descriptors, n), np.int32)
    offsets = np.ascontiguousarray(rows, np.int64) * size
    order = np.lexsort((offsets, files))
    if n <= FEW:
        return _read(files, offsets, order, places, memory)
    ours, *others = np.array_split(order, THREADS)
    waiting = [_threads().submit(_read, files, offsets, part, places, memory) for part in others]
    try:
        _read(files, offsets, ours, places, memory)
    finally:  # nobody reads on when the files are closed
        wait(waiting)
    for part in waiting:
        part.result()


def _read(files: np.ndarray, offsets: np.ndarray, order: np.ndarray, places: np.ndarray, memory: np.ndarray) -> None:
    """Reads the rows of `order`. Where the loop stopped, a row is read again in Python, which says what is wrong or
    waits for what was interrupted."""
    fill = _loop()
    while (done := fill(files, offsets, order, places, memory)) < len(order):
        i = order[done]
        _read_one(int(files[i]), int(offsets[i]), memoryview(memory[places[i]]))
        order = order[done + 1 :]


def _read_one(file: int, offset: int, row: memoryview) -> None:
    got = 0
    while got < len(row):
        try:
            count = os.preadv(file, [row[got:]], offset + got)
        except OSError as error:
            raise OSError(error.errno, error.strerror, _name_of(file)) from error
        if count == 0:
            raise OSError(errno.EIO, "the file has become shorter", _name_of(file))
        got += count


def _name_of(file: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:  # another system than Linux, or a descriptor that is closed
        return f"descriptor {file}"


def fill_in_python(
    files: np.ndarray, offsets: np.ndarray, order: np.ndarray, places: np.ndarray, memory: np.ndarray
) -> int:
    """Reads the rows of `order` into memory[places], (m, size) uint8, until one does not come; how many came."""
    for k, i in enumerate(order.tolist()):
        try:
            _read_one(int(files[i]), int(offsets[i]), memoryview(memory[places[i]]))
        except OSError:
            return k
    return len(order)


@cache
def _loop() -> Callable[..., int]:
    if os.name == "nt":  # has no pread
        return fill_in_python
    try:
        loop: Callable[..., int] = importlib.import_module("rsssl.data.pread").fill
    except (ImportError, RuntimeError):  # numba is missing, or has nowhere to keep what it compiled
        return fill_in_python
    return loop
