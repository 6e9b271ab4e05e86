"""The passes over pixels on a CPU: numba's loops (kernels.py), on all threads. Imported through `ops.loops`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsssl.augment import kernels
from rsssl.augment.resample import Unit
from rsssl.augment.threads import over_samples


def resample(
    x: Tensor, index: Tensor, boxes: Tensor, codes: Tensor, first: int, unit: Unit | None, missing: float, out: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Crops of stored images, resized and turned.

    Args:
        x: (B, C, H, W), of any type.
        index: (n,) the image of each view.
        boxes: (n, 4) int64: top, left, height, width, in pixels of the image resized to (first, first), or of the image
            itself where first is 0.
        codes: (n,) the symmetry of each view (see `turn`).
        first: see there.
        unit: what takes stored values to 0..1; None: they stay as they are.
        missing: the value that means "nothing here"; NaN for none.
        out: (n, C, S, S) float32, which may be used for the result.

    Returns:
        The views (n, C, S, S) float32, and the means of their bands (n, C) where they came for nothing.
    """
    n, bands = out.shape[:2]
    means, zero, one = torch.empty(n, bands), torch.zeros(bands), torch.ones(bands)
    low, gain, fill = unit or (zero, one, zero)
    parts = (x.contiguous(), index, boxes, codes)
    numbers = (low.numpy(), gain.numpy(), unit is not None, np.float32(missing), fill.numpy())
    x_, index_, boxes_, codes_ = (t.numpy() for t in parts)
    over_samples(kernels.resample, n, x_, index_, boxes_, codes_, first, *numbers, out.numpy(), means.numpy())
    return out, means


def hue(values: Tensor, matrix: Tensor, bias: Tensor, turns: Tensor) -> Tensor:
    """values (n, 3, S, S) -> matrix (n, 3, 3) @ values + bias (n, 3), the hue rotated by turns (n,)."""
    values = values.contiguous()
    rows = values.flatten(2).numpy()  # a view
    over_samples(kernels.rotate_hue, len(values), rows, matrix.numpy(), bias.contiguous().numpy(), turns.numpy())
    return values


def blur(values: Tensor, rows: Tensor | None, weights: Tensor) -> Tensor:
    """The views rows (m,) of values (n, C, S, S), all where None, along rows and columns with weights (m, k)."""
    values, which = values.contiguous(), torch.arange(len(values)) if rows is None else rows
    over_samples(kernels.blur, len(which), values.numpy(), which.numpy(), weights.numpy())
    return values


def finish(values: Tensor, matrix: Tensor, bias: Tensor, mixes: bool, low: Tensor, high: Tensor, out: Tensor) -> None:
    """values (n, C, S, S) -> matrix (n, C, C) @ values + bias (n, C), kept between low and high (C,), into out.

    `mixes`: False where the matrices are diagonal. values may be out, and may be changed.
    """
    values = values.contiguous()
    rows, numbers = values.flatten(2).numpy(), (matrix.numpy(), bias.contiguous().numpy())
    over_samples(kernels.finish, len(values), rows, *numbers, mixes, low.numpy(), high.numpy())
    if values.data_ptr() != out.data_ptr():
        out.copy_(values)
