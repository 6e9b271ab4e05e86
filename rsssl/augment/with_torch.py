"""The passes over pixels by torch's operations, for any device; see pixels.Canvas for what each does.

Two dense matrix products resample all views: on an accelerator a launch for each view would cost more than the
arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsssl.augment.resample import Place, Unit


def resample(place: Place, out: Tensor) -> tuple[Tensor, Tensor | None]:
    """The crops of stored images, resized and turned, (n, C, S, S) float32, and the means of their bands (n, C) where
    they came for nothing. out (n, C, S, S) may be used for the result."""
    x, index, boxes, codes, first, unit, missing = place
    x, (height, width), size = x[index], x.shape[-2:], out.shape[-1]
    x = x.to(torch.float32) if unit is None else bounded(x, unit, missing)
    n, bands = x.shape[:2]
    top, left, h, w = boxes.float().unbind(1)
    transpose, flip_v, flip_h = codes >= 4, codes % 4 >= 2, codes % 2 == 1
    # A view is rows @ image @ columns', transposed for some samples; the flips reverse the order of the weights. With a
    # transposition the flip of the rows of the result is one of the columns of the image.
    rows = triangle(top, h, torch.where(transpose, flip_h, flip_v), first or height, size)  # (n, S, H)
    cols = triangle(left, w, torch.where(transpose, flip_v, flip_h), first or width, size)  # (n, S, W)
    if first:  # two resamplings, one product: exact, as both are linear and separable
        rows, cols = rows @ resizing(height, first, x.device), cols @ resizing(width, first, x.device)
    half = torch.bmm(x.reshape(n, bands * height, width), cols.transpose(1, 2)).view(n, bands, height, size)
    views = torch.matmul(rows[:, None], half)
    return torch.where(transpose[:, None, None, None], views.transpose(2, 3), views), None


def bounded(x: Tensor, unit: Unit, missing: float) -> Tensor:
    """Stored values (n, C, H, W) of any type -> float32 in 0..1: (value - low) * gain, clamped; what is missing, and
    NaN, becomes the fill."""
    y = x.to(torch.float32)
    low, gain, fill = (v[:, None, None] for v in unit)
    nothing = y.isnan() if missing != missing else (y == missing) | y.isnan()
    return torch.where(nothing, fill, ((y - low) * gain).clamp_(0.0, 1.0))


def triangle(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int) -> Tensor:
    """Weights (B, size, n) that resize pixels start .. start + length (B,) of n to size, in reverse order where flip.

    The filter is the triangle of PyTorch's `interpolate(mode="bilinear", antialias=True)`, cut at the crop's edges.
    """
    start, length, device = start[:, None], length[:, None], start.device
    out = torch.arange(size, device=device, dtype=torch.float32).expand(len(start), size)
    out = torch.where(flip[:, None], size - 1 - out, out)
    scale = length / size  # (B, 1)
    reach = scale.clamp_min(1.0)  # half the width of the triangle
    pixel = torch.arange(n, device=device, dtype=torch.float32) - start + 0.5  # (B, n), from the crop's edge
    inside = (pixel > 0) & (pixel < length)
    cap = torch.where(inside, 1.0, -torch.inf)[:, None, :]
    distance = ((pixel / reach)[:, None, :] - ((out + 0.5) * scale / reach)[:, :, None]).abs_()  # (B, size, n)
    weights = torch.sub(cap, distance, out=distance).clamp_min_(0.0)
    return weights.div_(weights.sum(2, keepdim=True))


def resizing(n: int, size: int, device: torch.device) -> Tensor:
    """Weights (1, size, n) that resize n pixels to size."""
    zero = torch.zeros(1, device=device)
    return triangle(zero, zero + n, zero > 0, n, size)


def hue(values: Tensor, matrix: Tensor, bias: Tensor, turns: Tensor) -> Tensor:
    return hue_rotated(torch.baddbmm(bias[:, :, None], matrix, values.flatten(2)).view(values.shape), turns)


def hue_rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of RGB x (B, 3, H, W) by turns (B,) in HSV, value and saturation kept.

    With u the hue in sixths of a turn, M and m the largest and smallest band, red is
    m + (M - m) clamp(|u - 3| - 1, 0, 1), green the same with 2 - |u - 2|, blue with 2 - |u - 4|: the hexcone of
    A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978, without its table of six cases.
    """
    r, g, b = x.unbind(1)
    high = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    spread = high - low
    # The case (red, else green, else blue is the largest) is chosen by lerp with weights of 0 and 1, exact there: on a
    # CPU a choice by booleans (torch.where) costs 20 times as much, and remainder 4 times what floor does.
    u = (r - g).add_(spread, alpha=4.0)
    is_largest = torch.eq(high, g, out=torch.empty_like(u))
    u = u.lerp_((b - r).add_(spread, alpha=2.0), is_largest)
    u = u.lerp_(g - b, torch.eq(high, r, out=is_largest))
    u.div_(spread.clamp_min(1e-12))  # a gray pixel has 0 / 1e-12: any hue will do, as its spread is 0
    u.add_(6.0 * turns[:, None, None])
    u.sub_((u * (1 / 6)).floor_(), alpha=6.0)
    out = torch.empty_like(x)
    for band, (middle, sign) in enumerate(((3.0, 1.0), (2.0, -1.0), (4.0, -1.0))):
        share = (u - middle).abs_().mul_(sign).add_(-sign if sign > 0 else 2.0).clamp_(0.0, 1.0)
        torch.addcmul(low, spread, share, out=out[:, band])
    return out


def blur(values: Tensor, rows: Tensor | None, weights: Tensor) -> Tensor:
    x, (n, k), size = values if rows is None else values[rows], weights.shape, values.shape[-1]
    # Two products with banded matrices: row i of one holds the weights at i - k/2 .. i + k/2, reflected at the edges.
    at = (torch.arange(size, device=x.device)[:, None] + torch.arange(k, device=x.device) - k // 2).abs_()
    at = torch.where(at >= size, 2 * (size - 1) - at, at).expand(n, size, k)
    band = x.new_zeros(n, size, size).scatter_add_(2, at, weights[:, None, :].expand(n, size, k))[:, None]
    x = band @ x @ band.transpose(2, 3)
    if rows is None:
        return x
    values[rows] = x
    return values


def finish(values: Tensor, matrix: Tensor, bias: Tensor, mixes: bool, low: Tensor, high: Tensor, out: Tensor) -> None:
    if mixes:
        values = torch.baddbmm(bias[:, :, None], matrix, values.flatten(2)).view(values.shape)
    else:
        values = torch.addcmul(bias[:, :, None, None], values, matrix.diagonal(dim1=1, dim2=2)[:, :, None, None])
    torch.clamp(values, low[:, None, None], high[:, None, None], out=out)
