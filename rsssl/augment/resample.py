"""Crop, flip, turn and resize in one antialiased bilinear resampling.

The filter is the triangle of PyTorch's `interpolate(mode="bilinear", antialias=True)`, cut at the edges of the crop, so
the result equals "crop, then resize, then flip and turn". Two ways of computing it, chosen by measured rule: see
`use_products`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Converter = Callable[[Tensor], Tensor]  # stored values -> floats in 0..1


class Frame(NamedTuple):
    """Where each view lies in its image: a box in pixels, then the symmetries. All (B,), on the CPU."""

    top: Tensor  # int64
    left: Tensor
    height: Tensor
    width: Tensor
    transpose: Tensor  # bool; done first
    flip_v: Tensor  # up and down, after the transposition
    flip_h: Tensor

    @staticmethod
    def full(b: int, height: int, width: int) -> Frame:
        zero, no = torch.zeros(b, dtype=torch.int64), torch.zeros(b, dtype=torch.bool)
        return Frame(zero, zero, zero + height, zero + width, no, no, no)

    def rows(self, which: slice) -> Frame:
        return Frame(*(field[which] for field in self))


def use_products(height: int, width: int, size: int, device: torch.device) -> bool:
    """Whether two dense matrix products beat a call of `interpolate` for each sample.

    On accelerators always (a launch for each sample costs more than the arithmetic). On a CPU up to about 64 -> 64:
    on one thread, 3 bands, uint8, a sample takes 0.02 ms against 0.06 (64 -> 32), 0.08 against 0.07 (64 -> 64),
    0.5 against 0.06 (128 -> 96), 3.9 against 0.2 (256 -> 224).
    """
    return device.type != "cpu" or height * width * size + height * size * size <= 600_000


def resample(x: Tensor, frame: Frame, size: int, first: int | None, to_unit: Converter | None) -> Tensor:
    """x (B, C, H, W) -> float32 (B, C, size, size) by `frame`.

    first: resize the image to (first, first) before; `frame` is then in the pixels of that. to_unit converts the
    stored values before anything else; None for floats, and for bytes that are resampled as they are. On the
    `interpolate` path those come out rounded to whole numbers, as from torchvision, and 1.5 to 2.5 times sooner than
    floats. Never returns the memory of x.
    """
    height, width = x.shape[-2:]
    if first is None:
        whole = (frame.height == height) & (frame.width == width)
        if height == width == size and bool(whole.all()):
            return turned(x.to(torch.float32, copy=True) if to_unit is None else to_unit(x), frame)
    if use_products(height, width, size, x.device):
        return _by_products((to_unit or _float)(x), frame, size, first)
    if first is not None:
        x = F.interpolate((to_unit or _bytes)(x), (first, first), mode="bilinear", antialias=True)
        to_unit = None
    return _by_samples(x, frame, size, to_unit)


def _float(x: Tensor) -> Tensor:
    return x.to(torch.float32)


def _bytes(x: Tensor) -> Tensor:
    # torch has a fast path for bytes of up to four bands; its general one for bytes is slower than floats
    return x if x.dtype == torch.uint8 and x.shape[1] <= 4 else x.to(torch.float32)


def _by_products(x: Tensor, frame: Frame, size: int, first: int | None) -> Tensor:
    b, c, height, width = x.shape
    # A view is rows @ image @ columns^T, transposed for some samples; the flips reverse the order of the weights.
    # With a transposition the flip of the rows of the result is one of the columns of the image.
    flip_rows = torch.where(frame.transpose, frame.flip_h, frame.flip_v)
    flip_cols = torch.where(frame.transpose, frame.flip_v, frame.flip_h)
    rows = _weights(frame.top, frame.height, flip_rows, first or height, size, x.device)  # (B, size, H)
    cols = _weights(frame.left, frame.width, flip_cols, first or width, size, x.device)  # (B, size, W)
    if first is not None:  # two resamplings, one product: exact, as both are linear and separable
        zero, no = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
        rows = rows @ _weights(zero, zero + height, no, height, first, x.device)
        cols = cols @ _weights(zero, zero + width, no, width, first, x.device)
    half = torch.bmm(x.reshape(b, c * height, width), cols.transpose(1, 2)).view(b, c, height, size)
    out = torch.matmul(rows[:, None], half)
    if bool(frame.transpose.any()):
        which = frame.transpose.nonzero()[:, 0].to(x.device)
        out[which] = out[which].transpose(2, 3)
    return out


def _weights(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int, device: torch.device) -> Tensor:
    """Weights (B, size, n) that resize pixels start .. start + length of n to size, in reverse order where flip."""
    start_f, length_f = start.to(device, torch.float32)[:, None], length.to(device, torch.float32)[:, None]
    out = torch.arange(size, device=device, dtype=torch.float32).expand(len(start), size)
    out = torch.where(flip.to(device)[:, None], size - 1 - out, out)
    scale = length_f / size  # (B, 1)
    reach = scale.clamp_min(1.0)  # half the width of the triangle
    pixel = torch.arange(n, device=device, dtype=torch.float32) - start_f + 0.5  # (B, n), from the crop's edge
    inside = (pixel > 0) & (pixel < length_f)
    cap = torch.where(inside, 1.0, -torch.inf)[:, None, :]
    distance = ((pixel / reach)[:, None, :] - ((out + 0.5) * scale / reach)[:, :, None]).abs_()  # (B, size, n)
    weights = torch.sub(cap, distance, out=distance).clamp_min_(0.0)
    return weights.div_(weights.sum(2, keepdim=True))


def _by_samples(x: Tensor, frame: Frame, size: int, to_unit: Converter | None) -> Tensor:
    convert = to_unit or _bytes
    boxes = torch.stack(list(frame[:4]), 1).tolist()
    parts = []
    for i, (top, left, h, w) in enumerate(boxes):
        crop = convert(x[i : i + 1, :, top : top + h, left : left + w])
        if h != size or w != size:
            if crop.dtype == torch.uint8:  # interleaved bytes are the fastest of all
                crop = crop.contiguous(memory_format=torch.channels_last)
            crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        parts.append(crop)
    return turned(torch.cat(parts).to(torch.float32, memory_format=torch.contiguous_format), frame)


def turned(x: Tensor, frame: Frame) -> Tensor:
    """x (B, C, S, S) with each sample's own symmetry; in place where it can."""
    code = frame.transpose.to(torch.int64) * 4 + frame.flip_v.to(torch.int64) * 2 + frame.flip_h.to(torch.int64)
    for symmetry in range(1, 8):
        rows = (code == symmetry).nonzero()[:, 0].to(x.device)
        if len(rows):
            x[rows] = turn(x[rows], symmetry)
    return x


def turn(x: Tensor, symmetry: int) -> Tensor:
    """Symmetry 0 to 7 of the square, of x (..., S, S): transpose (4), then flip up-down (2) and left-right (1)."""
    if symmetry & 4:
        x = x.transpose(-2, -1)
    axes = ([-2] if symmetry & 2 else []) + ([-1] if symmetry & 1 else [])
    return x.flip(axes) if axes else x
