"""The files of a feature bank, which need numpy alone to be read.

folder/features.bin   (N, D) float32
folder/rows.bin       (N,) uint32: the CRC-32 of each row that was computed, 0 for the others
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

CHUNK = 256  # images at a time


def mapped(folder: Path, n_rows: int) -> np.ndarray:
    """(N, D) float32, memory-mapped."""
    file = folder / "features.bin"
    return np.memmap(file, np.float32, "r", shape=(n_rows, file.stat().st_size // (4 * n_rows)))


def known_checksums(folder: Path, n_rows: int) -> np.ndarray:
    """(N,) uint32, see above; zeros where the files are missing or have an impossible size."""
    file, bank = folder / "rows.bin", folder / "features.bin"
    if file.is_file() and bank.is_file():
        checksums, size = np.frombuffer(file.read_bytes(), np.uint8), bank.stat().st_size
        if len(checksums) == 4 * n_rows and size and size % (4 * n_rows) == 0:
            return checksums.view(np.uint32).copy()
    return np.zeros(n_rows, np.uint32)


def checksums_of(bank: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The checksums (len(rows),) uint32 of some rows of a bank, read in parts."""
    return np.concatenate([row_checksums(bank[rows[i : i + CHUNK]]) for i in range(0, len(rows), CHUNK)])


def row_checksums(features: np.ndarray) -> np.ndarray:
    """The CRC-32 of each row of (n, D) float32, and 1 in place of 0: (n,) uint32."""
    rows = np.ascontiguousarray(features, np.float32)
    return np.array([zlib.crc32(row.data) or 1 for row in rows], np.uint32)


def read_rows(folder: Path, n_rows: int, rows: np.ndarray) -> np.ndarray | None:
    """(len(rows), D) float32 as they were computed; None where some are missing or damaged."""
    checksums = known_checksums(folder, n_rows)[rows]
    if not len(rows) or not checksums.all():
        return None
    features = np.array(mapped(folder, n_rows)[rows])
    return features if (row_checksums(features) == checksums).all() else None
