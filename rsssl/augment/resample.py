"""Crop, flip, turn and resize in one antialiased bilinear resampling.

The filter is the triangle of PyTorch's `interpolate(mode="bilinear", antialias=True)`, cut at the edges of the crop, so
the result equals "crop, then resize, then flip and turn". A CPU sums the few pixels under each triangle (kernels.py);
an accelerator takes two dense matrix products for all samples, as a launch for each costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsssl.augment.ops import kernels

Numbers = Tensor | Sequence[float]


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

    def code(self) -> Tensor:
        """The symmetry of each view as `turn` numbers them, (B,) int64."""
        return self.transpose * 4 + self.flip_v * 2 + self.flip_h * 1


class ToUnit:
    """Stored values to floats in 0..1: (value - low) / (high - low) per band, clamped; nodata and NaN become the mean.

    low, high, mean: (C,) numbers, the first two in stored units, mean in 0..1 units. nodata: a stored value, or None.
    """

    def __init__(self, low: Numbers, high: Numbers, mean: Numbers, nodata: float | None) -> None:
        self.low, self.high, self.mean = (torch.as_tensor(v, dtype=torch.float32) for v in (low, high, mean))
        self.nodata = torch.nan if nodata is None else float(nodata)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) of any type -> float32."""
        y = x.to(torch.float32)
        low, high, mean = (v.to(x.device)[:, None, None] for v in (self.low, self.high, self.mean))
        missing = (y == torch.tensor(self.nodata, device=x.device)) | y.isnan()
        return torch.where(missing, mean, ((y - low) / (high - low)).clamp_(0.0, 1.0))


def resample(
    x: Tensor, index: Tensor, frame: Frame, first: int | None, to_unit: ToUnit | None, out: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Images index (n,) of x (B, C, H, W) by `frame`, (n, C, size, size) float32; and the bands' means (n, C) if at
    hand.

    first: resize the image to (first, first) before; `frame` is then in the pixels of that. to_unit converts the stored
    values; None leaves them as they are. out (n, C, size, size) may be used for the result; the memory of x never is.
    """
    if compiled := kernels(x.device):
        return out, _by_kernel(compiled, x, index, frame, first or 0, to_unit, out)
    x = x[index.to(x.device)]
    x = x.to(torch.float32) if to_unit is None else to_unit(x)
    return _by_products(x, frame, out.shape[-1], first), None


def _by_kernel(
    compiled: Any, x: Tensor, index: Tensor, frame: Frame, first: int, to_unit: ToUnit | None, out: Tensor
) -> Tensor:
    n, bands = out.shape[:2]
    means, zero, one = torch.empty(n, bands), torch.zeros(bands), torch.ones(bands)
    low, gain, fill = (
        (zero, one, zero) if to_unit is None else (to_unit.low, 1 / (to_unit.high - to_unit.low), to_unit.mean)
    )
    missing = np.float32(torch.nan if to_unit is None else to_unit.nodata)
    boxes = torch.stack(list(frame[:4]), 1)
    compiled.over_samples(
        compiled.resample,
        n,
        x.contiguous().numpy(),
        index.numpy(),
        boxes.numpy(),
        frame.code().numpy(),
        first,
        low.numpy(),
        gain.numpy(),
        to_unit is not None,
        missing,
        fill.numpy(),
        out.numpy(),
        means.numpy(),
    )
    return means


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


def turn(x: Tensor, symmetry: int) -> Tensor:
    """Symmetry 0 to 7 of the square, of x (..., S, S): transpose (4), then flip up-down (2) and left-right (1)."""
    if symmetry & 4:
        x = x.transpose(-2, -1)
    axes = ([-2] if symmetry & 2 else []) + ([-1] if symmetry & 1 else [])
    return x.flip(axes) if axes else x
