"""Scattered reads: rows of files of equal rows, straight into the memory of a batch."""

from __future__ import annotations

import errno
import os

import numpy as np


def read_rows(
    descriptors: int | np.ndarray, rows: np.ndarray, size: int, out: np.ndarray, places: np.ndarray | None = None
) -> None:
    """Reads rows of `size` bytes.

    Args:
        descriptors: the file of all rows, or (n,) the file of each; they stay open for the time of the call.
        rows: (n,) which row of its file each is; in the order of the files and rows they are read.
        size: bytes of a row.
        out: C-contiguous, (m, ...) of `size` bytes each.
        places: (n,) where in `out` each row goes; None: row i to out[i].

    Raises:
        OSError: when a file is too short.
    """
    if len(rows) == 0:
        return
    files = np.broadcast_to(descriptors, rows.shape)
    memory = out.data.cast("B")
    order = np.lexsort((rows, files))
    where = (order if places is None else places[order]).tolist()
    for file, row, place in zip(files[order].tolist(), rows[order].tolist(), where, strict=True):
        if os.preadv(file, [memory[place * size : (place + 1) * size]], row * size) != size:
            raise OSError(errno.EIO, "the file has become shorter")
