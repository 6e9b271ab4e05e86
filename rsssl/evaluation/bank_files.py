"""The files of a feature bank, which need numpy alone to be read.

folder/000000.bin    the first SHARD rows: (n,) uint32, the CRC-32 of each that was computed, 0 for the others, and then
                     (n, D) float32; holes, which take no disk, where nothing was computed
folder/000001.bin    the next ones; the last file has fewer
folder/inputs.json   which images and weights they are of

A row is known by its checksum: what was half written, or has changed since, is as if it had never been computed.
Nothing here takes memory that grows with the number of rows in a bank.
"""

from __future__ import annotations

import errno
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rsssl.engine.store import AGAIN, INPUTS
from rsssl.records import Damaged, read_sealed

SHARD = 1 << 16  # rows of a file
CHUNK = 256  # images at a time
AT_ONCE = 4096  # rows read together


@dataclass(frozen=True)
class BankFiles:
    """The features of N images in the files of a folder.

    Args:
        folder: of the files.
        n_rows: N.
    """

    folder: Path
    n_rows: int

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.bin"

    def width(self, shard: int | None = None) -> int:
        """D, by a file's size, or by that of the first one that has any; 0 where there is none of a possible size."""
        if shard is None:
            return next((w for w in map(self.width, self._shards()) if w), 0)
        try:
            size = self.file(shard).stat().st_size
        except OSError:
            return 0
        per_row, rest = divmod(size, 4 * self._rows(shard))
        return 0 if rest else max(0, per_row - 1)

    def whole(self, rows: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
        """(len(rows),) bool: which rows are known, and what was written; and how many are known and are not, by the
        name of their file."""
        whole, damaged = np.zeros(len(rows), bool), Counter[str]()
        for shard, positions in _by_shard(rows):
            if not (width := self.width(shard)):
                continue
            numbers = rows[positions] - shard * SHARD
            with open(self.file(shard), "rb", buffering=0) as file:
                checksums = np.empty(numbers[-1] - numbers[0] + 1, np.uint32)
                _fill(file, 4 * int(numbers[0]), checksums)
                checksums = checksums[numbers - numbers[0]]
                known = checksums != 0
                right = row_checksums(self._read(file, shard, width, numbers[known])) == checksums[known]
            whole[positions[known]] = right
            damaged[self.file(shard).name] += int((~right).sum())
        return whole, +damaged

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) float32 of rows that are known; without a look at their checksums.

        Raises:
            OSError: when a file is gone or has become shorter.
        """
        found: np.ndarray | None = None
        for shard, positions in _by_shard(rows):
            width = self.width(shard)
            with open(self.file(shard), "rb", buffering=0) as file:
                part = self._read(file, shard, width, rows[positions] - shard * SHARD)
            found = np.empty((len(rows), width), np.float32) if found is None else found
            found[positions] = part
        return np.empty((0, self.width()), np.float32) if found is None else found

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Keeps features (len(rows), D) float32 of rows that differ; the checksums come after them. A file of another
        width is begun anew."""
        for shard, positions in _by_shard(rows):
            numbers, part = rows[positions] - shard * SHARD, np.ascontiguousarray(features[positions], np.float32)
            checksums, (n, width) = row_checksums(part), (self._rows(shard), part.shape[1])
            if self.width(shard) != width:
                with open(self.file(shard), "wb") as file:
                    file.truncate(4 * n * (1 + width))  # zeros: nothing is known
            with open(self.file(shard), "r+b") as file:
                for start, stop in _runs(numbers):
                    file.seek(4 * n + 4 * width * int(numbers[start]))
                    file.write(part[start:stop].data)
                for start, stop in _runs(numbers):
                    file.seek(4 * int(numbers[start]))
                    file.write(checksums[start:stop].data)

    def damaged(self) -> list[str]:
        """The names of the files that hold rows which are not what was written, or that have an impossible size."""
        names = []
        for shard in self._shards():
            in_bank = 0 <= shard * SHARD < self.n_rows
            if not in_bank or not self.width(shard) or self.whole(np.arange(self._rows(shard)) + shard * SHARD)[1]:
                names.append(self.file(shard).name)
        return names

    def _shards(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("[0-9][0-9][0-9][0-9][0-9][0-9]*.bin"))

    def _rows(self, shard: int) -> int:
        """How many rows a file is for."""
        return max(1, min(SHARD, self.n_rows - shard * SHARD))

    def _read(self, file: BinaryIO, shard: int, width: int, numbers: np.ndarray) -> np.ndarray:
        """(len(numbers), width) float32 of an open file's rows, in rising order; some may be named twice."""
        once, turn = np.unique(numbers, return_inverse=True)
        out = np.empty((len(once), width), np.float32)
        for start, stop in _runs(once):
            _fill(file, 4 * self._rows(shard) + 4 * width * int(once[start]), out[start:stop])
        return out if len(once) == len(numbers) else out[turn]


def _by_shard(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The files that rows lie in, each with the positions in `rows` of at most AT_ONCE of them, in the file's order."""
    order = np.argsort(rows, kind="stable")
    shards = rows[order] // SHARD
    for positions in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
        for start in range(0, len(positions), AT_ONCE):
            part = positions[start : start + AT_ONCE]
            yield int(rows[part[0]]) // SHARD, part


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where numbers that follow each other begin and end."""
    edges = (np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()
    return zip([0, *edges], [*edges, len(numbers)], strict=True) if len(numbers) else iter(())


def _fill(file: BinaryIO, place: int, out: np.ndarray) -> None:
    """Fills an array from a file. Raises OSError where the file ends before."""
    file.seek(place)
    view = memoryview(out.data).cast("B")
    while len(view):
        if not (count := file.readinto(view)):  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "the file has become shorter", file.name)
        view = view[count:]


def row_checksums(features: np.ndarray) -> np.ndarray:
    """The CRC-32 of each row of (n, D) float32, and 1 in place of 0: (n,) uint32."""
    rows = np.ascontiguousarray(features, np.float32)
    return np.array([zlib.crc32(row.data) or 1 for row in rows], np.uint32)


def read_rows(folder: Path, n_rows: int, rows: np.ndarray) -> np.ndarray | None:
    """(len(rows), D) float32 as they were computed; None where some are missing or damaged."""
    files = BankFiles(folder, n_rows)
    return files.read(rows) if len(rows) and files.whole(rows)[0].all() else None


def damaged_features(folder: Path) -> list[str]:
    """The names of a bank's files that are not what was written."""
    try:
        n_rows = read_sealed(folder / INPUTS, AGAIN)["rows"]
    except (Damaged, KeyError):
        return [INPUTS] if (folder / INPUTS).is_file() else []
    return BankFiles(folder, n_rows).damaged()
