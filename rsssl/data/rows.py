"""Which rows of a pack take part, where they are too many to be listed: a run of rows, or those that a bitmap marks.

rows[positions]      (n,) int64, the rows at these positions, as of an array of all of them in ascending order
np.asarray(rows)     that array
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK = 512  # bits that are counted together: the count of each takes 8 bytes of memory, 1/8 of the bitmap
AT_ONCE = 1 << 12  # positions that are looked up, or blocks that are counted, together
LISTED = 1 << 20  # rows that `blocks` lists at a time
BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # in each byte


class Rows:
    """Ascending numbers of rows that are not listed.

    Args:
        sums: (C, 3) the moments of their images together; None where nobody has added them.
    """

    def __init__(self, sums: np.ndarray | None = None) -> None:
        self.sums = sums

    def __len__(self) -> int:
        raise NotImplementedError

    def _at(self, positions: np.ndarray) -> np.ndarray:
        """The rows at positions (n,) that are no less than 0."""
        raise NotImplementedError

    def within(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) bool: which of the rows from `start` to `stop` are among them."""
        raise NotImplementedError

    def before(self, bounds: np.ndarray) -> np.ndarray:
        """(m,) int64, how many of them are less than each of `bounds` (m,), which are rows of the pack."""
        raise NotImplementedError

    def blocks(self) -> Iterator[np.ndarray]:
        """All of them, (m,) int64 at a time."""
        for start in range(0, len(self), LISTED):
            yield self[start : start + LISTED]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            positions = range(len(self))[index]
            return self._at(np.arange(positions.start, positions.stop, positions.step, dtype=np.int64))
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        positions = np.where(index < 0, index + len(self), index).astype(np.int64)
        if positions.size and not (positions.min() >= 0 and positions.max() < len(self)):
            raise IndexError(f"there are {len(self)} rows")
        return self._at(positions.ravel()).reshape(positions.shape)[()]

    def __iter__(self) -> Iterator[np.int64]:
        for block in self.blocks():
            yield from block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        listed: np.ndarray = self[:]
        return listed if dtype is None else listed.astype(dtype)


class Run(Rows):
    """The rows from `start` to `stop`."""

    def __init__(self, start: int, stop: int, sums: np.ndarray | None = None) -> None:
        super().__init__(sums)
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def _at(self, positions: np.ndarray) -> np.ndarray:
        return self.start + positions

    def before(self, bounds: np.ndarray) -> np.ndarray:
        return np.clip(bounds, self.start, self.stop) - self.start

    def within(self, start: int, stop: int) -> np.ndarray:
        rows = np.arange(start, stop)
        return (rows >= self.start) & (rows < self.stop)


class Marked(Rows):
    """The rows that a bitmap marks, or those that it does not.

    Args:
        bits: uint8, bit i % 8 of byte i // 8 for row i, filled up with zeros to whole BLOCKs; it may be a mapped file.
        n: rows of the pack.
        marked: True for those whose bit is 1, False for the others.
        sums: see `Rows`.
    """

    def __init__(self, bits: np.ndarray, n: int, marked: bool, sums: np.ndarray | None = None) -> None:
        super().__init__(sums)
        self.n, self.marked = n, marked
        self.bits = bits.reshape(-1, BLOCK // 8)
        self._before = np.zeros(len(self.bits) + 1, np.int64)  # of each block
        counts = self._before[1:]
        for i in range(0, len(counts), AT_ONCE):
            counts[i : i + AT_ONCE] = BITS_SET[self.bits[i : i + AT_ONCE]].sum(1, dtype=np.int64)
        if not marked:
            np.subtract(np.minimum(BLOCK, n - BLOCK * np.arange(len(counts))), counts, out=counts)
        np.cumsum(counts, out=counts)

    def __len__(self) -> int:
        return int(self._before[-1])

    def _at(self, positions: np.ndarray) -> np.ndarray:
        out = np.empty(len(positions), np.int64)
        for i in range(0, len(positions), AT_ONCE):
            some = positions[i : i + AT_ONCE]
            blocks = np.searchsorted(self._before, some, side="right") - 1
            different, which = np.unique(blocks, return_inverse=True)
            place = np.cumsum(self._unpacked(different), axis=1, dtype=np.int16)
            inside = (some - self._before[blocks]).astype(np.int16)
            out[i : i + AT_ONCE] = BLOCK * blocks + (place[which] <= inside[:, None]).sum(1)
        return out

    def before(self, bounds: np.ndarray) -> np.ndarray:
        out = np.empty(len(bounds), np.int64)
        for i in range(0, len(bounds), AT_ONCE):
            blocks, inside = np.divmod(bounds[i : i + AT_ONCE], BLOCK)
            part = self._unpacked(blocks) * (np.arange(BLOCK) < inside[:, None])
            out[i : i + AT_ONCE] = self._before[blocks] + part.sum(1)
        return out

    def _unpacked(self, blocks: np.ndarray) -> np.ndarray:
        """(m, BLOCK) 0 or 1 for each row of some blocks."""
        bits = np.unpackbits(self.bits[blocks], axis=1, bitorder="little")
        return bits if self.marked else 1 - bits

    def within(self, start: int, stop: int) -> np.ndarray:
        first = start // BLOCK
        bits = self._unpacked(np.arange(first, -(-stop // BLOCK))).ravel()
        return bits[start - first * BLOCK : stop - first * BLOCK].astype(bool)

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.n, LISTED):
            yield start + np.flatnonzero(self.within(start, min(start + LISTED, self.n)))


Indices = np.ndarray | Rows  # of images


def before(rows: Indices, bounds: np.ndarray) -> np.ndarray:
    """(m,) int64, how many of `rows` are less than each of `bounds` (m,), which are rows of the pack."""
    return rows.before(bounds) if isinstance(rows, Rows) else np.searchsorted(rows, bounds)


def bitmap(masks: Iterator[np.ndarray]) -> np.ndarray:
    """The bits of `Marked`, of parts of a mask, bool (m,) each."""
    packed, left = list[np.ndarray](), np.empty(0, bool)
    for mask in masks:
        bits = np.concatenate([left, mask])
        whole = len(bits) // 8 * 8
        packed.append(np.packbits(bits[:whole], bitorder="little"))
        left = bits[whole:]
    packed.append(np.packbits(left, bitorder="little"))
    size = sum(map(len, packed))
    packed.append(np.zeros(-size % (BLOCK // 8), np.uint8))
    return np.concatenate(packed)
