"""The windows over a scene, the blocks in which they are worked on, and how their probabilities blend into pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsssl.geo.classified import Classified

BLOCK = 1024  # pixels a side of what is read and classified at once, about
GROUP = 16  # classes blended at once: of hundreds, all together would take too much memory
CHUNK = 512  # pixels a side of what is blended and written at once: the tiles of the product
TINY = 1e-30  # of a sum of weights: where it is less, there is no window


class Region(NamedTuple):
    """A rectangle of pixels.

    Args:
        y: row of its upper left pixel.
        x: column of that.
        height: in pixels.
        width: in pixels.
    """

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class Layout:
    """Windows over a scene; the last ones reach beyond it.

    They are numbered by row and column. A block is `per_block` x `per_block` of them.

    Args:
        height: of the scene, in pixels.
        width: of the scene.
        window: side of a window, in pixels.
        stride: pixels from one window to the next.
    """

    height: int
    width: int
    window: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        rows, cols = (max(0, -(-(n - self.window) // self.stride)) + 1 for n in (self.height, self.width))
        return rows, cols

    @property
    def per_block(self) -> int:
        return max(1, BLOCK // self.stride)

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        rows, cols = self.shape
        return -(-rows // self.per_block), -(-cols // self.per_block)

    def block(self, i: int) -> Block:
        """Block number i, counted along the rows."""
        rows, cols = self.shape
        n, (row, col) = self.per_block, divmod(i, self.blocks[1])
        return Block(self, row * n, col * n, min(n, rows - row * n), min(n, cols - col * n))

    def reaching(self, start: int, stop: int, axis: int) -> range:
        """The rows (axis 0) or columns (1) of windows that touch pixels start..stop."""
        first = max(0, -(-(start - self.window + 1) // self.stride))
        return range(first, min(self.shape[axis], (stop - 1) // self.stride + 1))


@dataclass(frozen=True)
class Block:
    """Windows that are worked on together.

    Args:
        layout: of all windows.
        row: of its first window.
        col: of that.
        rows: of windows.
        cols: of windows.
    """

    layout: Layout
    row: int
    col: int
    rows: int
    cols: int

    @property
    def region(self) -> Region:
        """The pixels under its windows, which may reach beyond the scene."""
        stride, overlap = self.layout.stride, self.layout.window - self.layout.stride
        return Region(self.row * stride, self.col * stride, self.rows * stride + overlap, self.cols * stride + overlap)

    @property
    def own(self) -> Region:
        """The pixels that are this block's own: those of all blocks together are the scene, each pixel once."""
        layout = self.layout
        y, x = self.row * layout.stride, self.col * layout.stride
        last_row, last_col = self.row + self.rows == layout.shape[0], self.col + self.cols == layout.shape[1]
        h = layout.height - y if last_row else self.rows * layout.stride
        w = layout.width - x if last_col else self.cols * layout.stride
        return Region(y, x, h, w)


def kernel(window: int) -> np.ndarray:
    """How much a window says about the pixels of a line through it (window,): most in the middle, little at the
    ends.
    """
    at = (np.arange(window) + 0.5) / window
    return (np.sin(np.pi * at) ** 2 + 1e-3).astype(np.float32)


@dataclass(frozen=True)
class Blended:
    """A part of a map.

    Args:
        y: row of its upper left pixel.
        x: column of that.
        classes: (h, w) the class with the largest mean probability, `nodata` where there is none.
        confidence: (h, w) that probability, in 0..1.
        probabilities: (K, h, w), where they were asked for.
        plausible: (h, w) number of classes in the set of those that are, where `least` says what is.
        unlike: (2, h, w), where the windows have it.
    """

    y: int
    x: int
    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None
    plausible: np.ndarray | None = None
    unlike: np.ndarray | None = None


class Blender:
    """Puts the windows' probabilities together.

    Each pixel has the mean of the windows over it, weighted by `kernel` and by how much of a window is valid.

    Args:
        layout: of the windows.
        load: gives a block's `Classified`, by its number.
        n_classes: K.
        nodata: the class number of pixels without a class.
        least: (K,) the probability from which on a class is plausible; None where nobody asked.
    """

    def __init__(
        self,
        layout: Layout,
        load: Callable[[int], Classified],
        n_classes: int,
        nodata: int,
        least: np.ndarray | None = None,
    ) -> None:
        self.layout, self.n_classes, self.nodata, self.least = layout, n_classes, nodata, least
        row_and_more = 2 * (layout.blocks[1] + 2)
        self._load = lru_cache(maxsize=min(row_and_more, 64))(load)
        self._kernel = kernel(layout.window)

    def chunks(self, probabilities: bool = False) -> Iterator[Blended]:
        """The whole scene, in tiles of CHUNK pixels along the rows."""
        for y in range(0, self.layout.height, CHUNK):
            for x in range(0, self.layout.width, CHUNK):
                h, w = min(CHUNK, self.layout.height - y), min(CHUNK, self.layout.width - x)
                yield self.blend(y, x, h, w, probabilities)

    def blend(self, y: int, x: int, h: int, w: int, probabilities: bool = False) -> Blended:
        """A part of the map.

        Args:
            y: the first row.
            x: the first column.
            h: rows.
            w: columns.
            probabilities: keep those of all classes.
        """
        valid = self._valid(Region(y, x, h, w))
        classes = np.full((h, w), self.nodata, np.uint8 if self.nodata < 256 else np.uint16)
        every = np.zeros((self.n_classes, h, w), np.float32) if probabilities else None
        if not valid.any():
            return Blended(y, x, classes, np.zeros((h, w), np.float32), every)
        rows, cols = self.layout.reaching(y, y + h, 0), self.layout.reaching(x, x + w, 1)
        values, weight = (torch.from_numpy(v) for v in self._windows(rows, cols))
        shares = values[..., : self.n_classes]
        down, across = self._spread(rows, y, h), self._spread(cols, x, w).T
        total = (down @ weight @ across).clamp_min_(TINY)
        lines = torch.tensordot(down, shares * weight[..., None], 1).permute(2, 0, 1).contiguous()  # (K, h, cols)
        best, number = torch.full((h, w), -1.0), torch.zeros((h, w), dtype=torch.int64)
        plausible = None if self.least is None else torch.zeros((h, w), dtype=torch.int64)
        for k in range(0, self.n_classes, GROUP):
            planes = lines[k : k + GROUP] @ across
            value, index = planes.max(0)
            more = value > best
            number = torch.where(more, index + k, number)
            best = torch.where(more, value, best)
            if every is not None:
                every[k : k + GROUP] = np.where(valid, (planes / total).numpy(), 0)
            if plausible is not None:
                least = torch.from_numpy(self.least)[k : k + GROUP, None, None]  # type: ignore[arg-type]
                plausible += (planes / total >= least).sum(0)
        np.copyto(classes, number.numpy(), where=valid, casting="unsafe")
        unlike = None
        if values.shape[2] > self.n_classes:
            more = torch.tensordot(down, values[..., self.n_classes :] * weight[..., None], 1).permute(2, 0, 1)
            unlike = (more.contiguous() @ across / total).numpy()
        sets = None if plausible is None else plausible.numpy()
        return Blended(y, x, classes, np.where(valid, (best / total).numpy(), 0), every, sets, unlike)

    def _spread(self, windows: range, start: int, n: int) -> Tensor:
        """(n, windows): the kernel's value of each window at pixels start..start+n of a line."""
        at = np.arange(start, start + n)[:, None] - np.array(windows)[None] * self.layout.stride
        inside = (at >= 0) & (at < self.layout.window)
        values = np.where(inside, self._kernel[np.clip(at, 0, self.layout.window - 1)], 0)
        return torch.from_numpy(values.astype(np.float32))

    def _windows(self, rows: range, cols: range) -> tuple[np.ndarray, np.ndarray]:
        """What windows have, (rows, cols, K or K + 2): the probabilities, and how unlike they are where that is known;
        and their weights (rows, cols). From the blocks that hold them."""
        values = np.zeros((len(rows), len(cols), self.n_classes + 2), np.float32)
        known = self.n_classes
        weight = np.zeros((len(rows), len(cols)), np.float32)
        wanted = Region(rows.start, cols.start, *weight.shape)
        for number in self._blocks(wanted, self.layout.per_block):
            block, part = self.layout.block(number), self._load(number)
            into, of = _overlap(wanted, Region(block.row, block.col, block.rows, block.cols))
            values[into][..., : self.n_classes], weight[into] = part.probabilities[of], part.weight[of]
            if part.unlike is not None:
                values[into][..., self.n_classes :], known = part.unlike[of], self.n_classes + 2
        return values[..., :known], weight

    def _valid(self, wanted: Region) -> np.ndarray:
        """(height, width): which pixels of the scene mean something."""
        out = np.zeros((wanted.height, wanted.width), bool)
        for number in self._blocks(wanted, self.layout.per_block * self.layout.stride):
            into, of = _overlap(wanted, self.layout.block(number).own)
            out[into] = self._load(number).valid[of]
        return out

    def _blocks(self, wanted: Region, side: int) -> Iterator[int]:
        """Numbers of the blocks that a region touches; they have that side, the last ones reach to the scene's end."""
        rows, cols = self.layout.blocks
        for i in range(min(wanted.y // side, rows - 1), min((wanted.y + wanted.height - 1) // side, rows - 1) + 1):
            for j in range(min(wanted.x // side, cols - 1), min((wanted.x + wanted.width - 1) // side, cols - 1) + 1):
                yield i * cols + j


def _overlap(one: Region, other: Region) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the part that two rectangles share lies in the one, and in the other."""
    y0, x0 = max(one.y, other.y), max(one.x, other.x)
    y1 = max(y0, min(one.y + one.height, other.y + other.height))
    x1 = max(x0, min(one.x + one.width, other.x + other.width))
    first, second = ((slice(y0 - r.y, y1 - r.y), slice(x0 - r.x, x1 - r.x)) for r in (one, other))
    return first, second
