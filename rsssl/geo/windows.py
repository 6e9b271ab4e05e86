"""Windows over a scene: which there are, in blocks that are worked on whole, and how their probabilities blend into pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024  # pixels a side of what is read and classified at once, about
GROUP = 16  # classes blended at once: of hundreds, all together would take too much memory
CHUNK = 512  # pixels a side of what is blended and written at once: the tiles of the product


@dataclass(frozen=True)
class Layout:
    """Windows of `window` pixels every `stride` pixels over a scene; the last ones reach beyond it.

    They are numbered by row and column. A block is `per_block` x `per_block` of them.
    """

    height: int
    width: int
    window: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return _count(self.height, self.window, self.stride), _count(self.width, self.window, self.stride)

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
    """`rows` x `cols` windows from the one at (row, col), and the pixels that are this block's own."""

    layout: Layout
    row: int
    col: int
    rows: int
    cols: int

    @property
    def region(self) -> tuple[int, int, int, int]:
        """y, x, height, width of the pixels under its windows, which may reach beyond the scene."""
        stride, window = self.layout.stride, self.layout.window
        return (
            self.row * stride,
            self.col * stride,
            (self.rows - 1) * stride + window,
            (self.cols - 1) * stride + window,
        )

    @property
    def own(self) -> tuple[int, int, int, int]:
        """y, x, height, width of its own pixels: those of all blocks are the scene, once."""
        stride = self.layout.stride
        y, x = self.row * stride, self.col * stride
        last = self.row + self.rows == self.layout.shape[0], self.col + self.cols == self.layout.shape[1]
        h = self.layout.height - y if last[0] else self.rows * stride
        w = self.layout.width - x if last[1] else self.cols * stride
        return y, x, h, w


def _count(size: int, window: int, stride: int) -> int:
    return max(0, -(-(size - window) // stride)) + 1


@dataclass(frozen=True)
class Classified:
    """What is known of a block: probabilities (rows, cols, K) float32; weight (rows, cols), the valid share of each window, 0 for
    one that was not looked at; valid (h, w) bool of the block's own pixels."""

    probabilities: np.ndarray
    weight: np.ndarray
    valid: np.ndarray

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        bits = np.zeros(0, np.uint8) if self.valid.all() else np.packbits(self.valid)
        np.savez_compressed(
            file, probabilities=self.probabilities, weight=self.weight, shape=self.valid.shape, bits=bits
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Classified:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            h, w = (int(n) for n in found["shape"])
            bits = found["bits"]
            valid = np.unpackbits(bits, count=h * w).reshape(h, w).astype(bool) if len(bits) else np.ones((h, w), bool)
            return cls(found["probabilities"], found["weight"], valid)


def kernel(window: int) -> np.ndarray:
    """How much a window says about the pixels of a line through it (window,): most in the middle, little at the ends."""
    at = (np.arange(window) + 0.5) / window
    return (np.sin(np.pi * at) ** 2 + 1e-3).astype(np.float32)


@dataclass(frozen=True)
class Blended:
    """Pixels y, x, h, w of a map: the class with the largest mean probability, `nodata` where there is none, that probability
    (0..1), and all of them (K, h, w) where they were asked for."""

    y: int
    x: int
    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None


class Blender:
    """Puts the windows' probabilities together: each pixel has the mean of the windows over it, weighted by `kernel` and by how
    much of a window is valid.

    Args:
        load: gives a block's `Classified`. n_classes: K. nodata: the class number of pixels without a class.
    """

    def __init__(self, layout: Layout, load: Callable[[int], Classified], n_classes: int, nodata: int) -> None:
        self.layout, self.n_classes, self.nodata = layout, n_classes, nodata
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
        """A part of the map."""
        valid = self._valid(y, x, h, w)
        classes = np.full((h, w), self.nodata, np.uint8 if self.nodata < 256 else np.uint16)
        every = np.zeros((self.n_classes, h, w), np.float32) if probabilities else None
        if not valid.any():
            return Blended(y, x, classes, np.zeros((h, w), np.float32), every)
        rows, cols = self.layout.reaching(y, y + h, 0), self.layout.reaching(x, x + w, 1)
        shares, weight = (torch.from_numpy(v) for v in self._windows(rows, cols))
        down, across = self._spread(rows, y, h), self._spread(cols, x, w).T
        total = (down @ weight @ across).clamp_min_(1e-12)
        lines = torch.tensordot(down, shares * weight[..., None], 1).permute(2, 0, 1).contiguous()  # (K, h, cols)
        best, number = torch.full((h, w), -1.0), torch.zeros((h, w), dtype=torch.int64)
        for k in range(0, self.n_classes, GROUP):
            planes = lines[k : k + GROUP] @ across
            value, index = planes.max(0)
            more = value > best
            number = torch.where(more, index + k, number)
            best = torch.where(more, value, best)
            if every is not None:
                every[k : k + GROUP] = np.where(valid, (planes / total).numpy(), 0)
        np.copyto(classes, number.numpy(), where=valid, casting="unsafe")
        return Blended(y, x, classes, np.where(valid, (best / total).numpy(), 0), every)

    def _spread(self, windows: range, start: int, n: int) -> Tensor:
        """(n, windows): the kernel's value of each window at pixels start..start+n of a line."""
        at = np.arange(start, start + n)[:, None] - np.array(windows)[None] * self.layout.stride
        inside = (at >= 0) & (at < self.layout.window)
        values = np.where(inside, self._kernel[np.clip(at, 0, self.layout.window - 1)], 0)
        return torch.from_numpy(values.astype(np.float32))

    def _windows(self, rows: range, cols: range) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (rows, cols, K) and weights (rows, cols) of windows, from the blocks that hold them."""
        shares = np.zeros((len(rows), len(cols), self.n_classes), np.float32)
        weight = np.zeros((len(rows), len(cols)), np.float32)
        n = self.layout.per_block
        for i in range(rows.start // n, (rows.stop - 1) // n + 1):
            for j in range(cols.start // n, (cols.stop - 1) // n + 1):
                part = self._load(i * self.layout.blocks[1] + j)
                r0, r1 = max(rows.start, i * n), min(rows.stop, i * n + len(part.weight))
                c0, c1 = max(cols.start, j * n), min(cols.stop, j * n + part.weight.shape[1])
                there = slice(r0 - rows.start, r1 - rows.start), slice(c0 - cols.start, c1 - cols.start)
                here = slice(r0 - i * n, r1 - i * n), slice(c0 - j * n, c1 - j * n)
                shares[there], weight[there] = part.probabilities[here], part.weight[here]
        return shares, weight

    def _valid(self, y: int, x: int, h: int, w: int) -> np.ndarray:
        """(h, w): which pixels of the scene mean something."""
        out = np.zeros((h, w), bool)
        side = self.layout.per_block * self.layout.stride
        rows, cols = self.layout.blocks
        for i in range(min(y // side, rows - 1), min((y + h - 1) // side, rows - 1) + 1):
            for j in range(min(x // side, cols - 1), min((x + w - 1) // side, cols - 1) + 1):
                number = i * cols + j
                oy, ox, oh, ow = self.layout.block(number).own
                y0, y1, x0, x1 = max(y, oy), min(y + h, oy + oh), max(x, ox), min(x + w, ox + ow)
                if y0 < y1 and x0 < x1:
                    out[y0 - y : y1 - y, x0 - x : x1 - x] = self._load(number).valid[
                        y0 - oy : y1 - oy, x0 - ox : x1 - ox
                    ]
        return out
