"""The passes over pixels on an accelerator, as Triton kernels: each reads and writes a view once. See pixels.Canvas
for what they do; imported through `ops.canvas`.

A program does BLOCK pixels of one band of one view, or of one view. TRITON_INTERPRET=1 runs them on a CPU, slowly.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,operator"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsssl.augment.resample import Place

BLOCK = 1024


@triton.jit
def taps(r, start_of, length, size):  # of one axis: the first pixel under each triangle, the last, its middle and reach
    scale = length / size
    reach = tl.maximum(scale, 1.0)
    centre = (r + 0.5) * scale
    low = tl.maximum(tl.floor(centre - reach - 0.5) + 1.0, 0.0)
    high = tl.minimum(tl.ceil(centre + reach - 0.5), length)
    return low, high, centre, reach


@triton.jit
def resample_kernel(
    x, index, boxes, codes, low, gain, fill, missing, out, sums, channels, height, width, size, most,
    BOUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    view, band = tl.program_id(0) // channels, tl.program_id(0) % channels
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size * size
    code = tl.load(codes + view)
    y, p = at // size, at % size  # where in the view; undone are the flips, then the transposition
    y = tl.where((code & 2) != 0, size - 1 - y, y)
    p = tl.where((code & 1) != 0, size - 1 - p, p)
    row, column = tl.where(code >= 4, p, y), tl.where(code >= 4, y, p)
    top, left = tl.load(boxes + 4 * view), tl.load(boxes + 4 * view + 1)
    h, w = tl.load(boxes + 4 * view + 2).to(tl.float32), tl.load(boxes + 4 * view + 3).to(tl.float32)
    y0, y1, y_centre, y_reach = taps(row.to(tl.float32), top, h, size)
    x0, x1, x_centre, x_reach = taps(column.to(tl.float32), left, w, size)
    image = x + (tl.load(index + view) * channels + band) * height * width
    total = tl.zeros((BLOCK,), tl.float32)
    of_rows, of_columns = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for j in range(most):
        yy = y0 + j
        a = tl.where(yy < y1, 1.0 - tl.abs(yy + 0.5 - y_centre) / y_reach, 0.0)
        of_rows += a
        of_columns = tl.zeros((BLOCK,), tl.float32)
        line = tl.zeros((BLOCK,), tl.float32)
        for k in range(most):
            xx = x0 + k
            b = tl.where(xx < x1, 1.0 - tl.abs(xx + 0.5 - x_centre) / x_reach, 0.0)
            of_columns += b
            there = inside & (yy < y1) & (xx < x1)
            where = (top + yy.to(tl.int64)) * width + left + xx.to(tl.int64)
            v = tl.load(image + where, mask=there, other=0).to(tl.float32)
            if BOUNDED:
                shift, factor, instead = tl.load(low + band), tl.load(gain + band), tl.load(fill + band)
                u = tl.minimum(tl.maximum((v - shift) * factor, 0.0), 1.0)
                v = tl.where((v == missing) | (v != v), instead, u)
            line += b * v
        total += a * line
    total = total / (of_rows * of_columns)
    tl.store(out + tl.program_id(0) * size * size + at, total, mask=inside)
    tl.store(sums + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(tl.where(inside, total, 0.0)))


@triton.jit
def hue_kernel(x, matrix, bias, turns, pixels, BLOCK: tl.constexpr):
    view = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    place = x + view * 3 * pixels + at
    v0 = tl.load(place, mask=inside, other=0.0)
    v1 = tl.load(place + pixels, mask=inside, other=0.0)
    v2 = tl.load(place + 2 * pixels, mask=inside, other=0.0)
    m, o = matrix + 9 * view, bias + 3 * view
    r = tl.load(m) * v0 + tl.load(m + 1) * v1 + tl.load(m + 2) * v2 + tl.load(o)
    g = tl.load(m + 3) * v0 + tl.load(m + 4) * v1 + tl.load(m + 5) * v2 + tl.load(o + 1)
    b = tl.load(m + 6) * v0 + tl.load(m + 7) * v1 + tl.load(m + 8) * v2 + tl.load(o + 2)
    high, low = tl.maximum(r, tl.maximum(g, b)), tl.minimum(r, tl.minimum(g, b))
    spread = high - low
    u = tl.where(high == r, g - b, tl.where(high == g, b - r + 2.0 * spread, r - g + 4.0 * spread))
    u = u / tl.maximum(spread, 1e-12) + 6.0 * tl.load(turns + view)
    u = u - 6.0 * tl.floor(u / 6.0)
    red = tl.minimum(tl.maximum(tl.abs(u - 3.0) - 1.0, 0.0), 1.0)
    green = tl.minimum(tl.maximum(2.0 - tl.abs(u - 2.0), 0.0), 1.0)
    blue = tl.minimum(tl.maximum(2.0 - tl.abs(u - 4.0), 0.0), 1.0)
    tl.store(place, low + spread * red, mask=inside)
    tl.store(place + pixels, low + spread * green, mask=inside)
    tl.store(place + 2 * pixels, low + spread * blue, mask=inside)


@triton.jit
def blur_kernel(x, out, rows, weights, channels, size, taps_, along_rows: tl.constexpr, to_rows: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    # from x to out, of which one holds the chosen views alone and the other all of them
    chosen, band = tl.program_id(0) // channels, tl.program_id(0) % channels
    view = tl.load(rows + chosen)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size * size
    y, p = at // size, at % size
    packed, whole = (chosen * channels + band) * size * size, (view * channels + band) * size * size
    source = x + (packed if to_rows else whole)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(taps_):
        q = tl.abs((p if along_rows else y) + k - taps_ // 2)
        q = tl.where(q >= size, 2 * (size - 1) - q, q)
        where = y * size + q if along_rows else q * size + p
        total += tl.load(weights + chosen * taps_ + k) * tl.load(source + where, mask=inside, other=0.0)
    tl.store(out + (whole if to_rows else packed) + at, total, mask=inside)


@triton.jit
def finish_kernel(x, out, matrix, bias, low, high, channels, pixels, MIXES: tl.constexpr, BLOCK: tl.constexpr):
    view, band = tl.program_id(0) // channels, tl.program_id(0) % channels
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    m, first = matrix + (view * channels + band) * channels, x + view * channels * pixels + at
    total = tl.zeros((BLOCK,), tl.float32) + tl.load(bias + view * channels + band)
    if MIXES:
        for c in range(channels):
            total += tl.load(m + c) * tl.load(first + c * pixels, mask=inside, other=0.0)
    else:
        total += tl.load(m + band) * tl.load(first + band * pixels, mask=inside, other=0.0)
    total = tl.minimum(tl.maximum(total, tl.load(low + band)), tl.load(high + band))
    tl.store(out + (view * channels + band) * pixels + at, total, mask=inside)


def resample(place: Place, out: Tensor) -> tuple[Tensor, Tensor | None]:
    x, index, boxes, codes, first, unit, missing = place
    n, channels, size, _ = out.shape
    if first:  # each image once, then the crops of it
        b, device = len(x), x.device
        every, box = torch.arange(b, device=device), torch.zeros((b, 4), dtype=torch.int64, device=device)
        box[:, 2], box[:, 3] = x.shape[-2:]
        room = torch.empty((b, channels, first, first), device=device)
        x, _ = resample(Place(x, every, box, torch.zeros_like(every), 0, unit, missing), room)
        unit = None
    height, width = x.shape[-2:]
    blocks = triton.cdiv(size * size, BLOCK)
    sums = torch.empty((n, channels, blocks), device=x.device)
    limits = unit or (sums, sums, sums)  # not looked at
    most = 2 * math.ceil(max(1.0, height / size, width / size)) + 1
    resample_kernel[(n * channels, blocks)](
        x.contiguous(), index, boxes, codes, *limits, missing, out, sums, channels, height, width, size, most,
        BOUNDED=unit is not None, BLOCK=BLOCK,
    )  # fmt: skip
    return out, sums.sum(2) / size**2


def hue(values: Tensor, matrix: Tensor, bias: Tensor, turns: Tensor) -> Tensor:
    values, pixels = values.contiguous(), values[0, 0].numel()
    grid = len(values), triton.cdiv(pixels, BLOCK)
    hue_kernel[grid](values, matrix.contiguous(), bias.contiguous(), turns, pixels, BLOCK=BLOCK)
    return values


def blur(values: Tensor, rows: Tensor | None, weights: Tensor) -> Tensor:
    values, (n, taps_), (_, channels, size, _) = values.contiguous(), weights.shape, values.shape
    rows = torch.arange(n, device=values.device) if rows is None else rows
    half, grid = values.new_empty(n, channels, size, size), (n * channels, triton.cdiv(size * size, BLOCK))
    numbers = rows, weights.contiguous(), channels, size, taps_
    blur_kernel[grid](values, half, *numbers, along_rows=True, to_rows=False, BLOCK=BLOCK)
    blur_kernel[grid](half, values, *numbers, along_rows=False, to_rows=True, BLOCK=BLOCK)
    return values


def finish(values: Tensor, matrix: Tensor, bias: Tensor, mixes: bool, low: Tensor, high: Tensor, out: Tensor) -> None:
    (n, channels), pixels = values.shape[:2], values[0, 0].numel()
    values = values.contiguous()
    if mixes and values is out:
        values = values.clone()  # a band of the result needs all bands as they were
    grid = n * channels, triton.cdiv(pixels, BLOCK)
    finish_kernel[grid](
        values, out, matrix.contiguous(), bias.contiguous(), low, high, channels, pixels, MIXES=mixes, BLOCK=BLOCK
    )
