"""The CPU's loops that make a view of a stored image, one band after another: crop, turn, resize. See kernels.py.

All rooms are flat, rows lie one after another, and places are unsigned (a signed one would be looked at, as it may
count from the end): so LLVM makes vector code of the inner loops.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

F, U = np.float32, np.uint64
LANES = 16  # rows of a source begin at multiples of so many pixels
# Sums may be reordered; NaN keeps its meaning. What `compiled` has made becomes a part of `kept`, which stays on disk.
OPTIONS: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
compiled, kept = njit(**OPTIONS), njit(cache=True, **OPTIONS)


class Images(NamedTuple):
    """Where views come from: see resample.Place."""

    x: Any  # (B, C, H, W), and the same as one row
    flat: Any
    which: Any  # (n,)
    boxes: Any  # (n, 4)
    codes: Any  # (n,)
    first: int


class Unit(NamedTuple):
    """What becomes of a stored value v: when bounded, (v - low) * gain, kept in 0..1, and fill where it is `missing`
    (NaN for none) or not a number; else it stays."""

    low: Any  # (C,)
    gain: Any
    fill: Any
    missing: Any
    bounded: bool


@compiled
def triangle(length, size, flip, start, weight):
    """Weights that resize `length` pixels to `size`: output o sums weight[k, o] * pixel[start[o] + k]; returns their
    number.

    As PyTorch's antialiased bilinear interpolation. start (size,) integers, weight (K, size) float32 are filled. No
    pixel beyond the last is spoken of, but when there is one pixel, whose neighbour has no weight.
    """
    scale = length / size
    if scale <= 1.0:
        last = max(length - 2, 0)
        for o in range(size):
            at = min(max((o + 0.5) * scale - 0.5, 0.0), length - 1.0)
            low = min(np.int64(at), last)
            to = size - 1 - o if flip else o
            start[to] = low
            weight[0, to] = F(1.0 - (at - low))
            weight[1, to] = F(at - low)
        return 2
    n = min(length, math.ceil(2.0 * scale))
    for o in range(size):
        centre = (o + 0.5) * scale
        low = max(0, math.floor(centre - scale - 0.5) + 1)
        low = min(low, length - n)
        total = 0.0
        for p in range(low, low + n):
            total += max(1.0 - abs(p + 0.5 - centre) / scale, 0.0)
        to = size - 1 - o if flip else o
        start[to] = low
        for k in range(n):
            weight[k, to] = F(max(1.0 - abs(low + k + 0.5 - centre) / scale, 0.0) / total)
    return n


@compiled
def mix_rows(source, at, stride, columns, start, weight, n, out, to):
    """Row r of out sums n rows of source, `stride` apart, from start[r] on, with weight[:, r]: `columns` of each, which
    is how far apart the rows of out are. `at`, `to`: where source and out begin."""
    for r in range(U(start.shape[0])):
        a, u, v = at + U(start[r]) * stride, weight[0, r], weight[1, r]
        if v != F(0.0):
            b = a + stride
            for p in range(columns):
                out[to + p] = u * source[a + p] + v * source[b + p]
        else:
            for p in range(columns):
                out[to + p] = u * source[a + p]
        for k in range(2, n):
            u, b = weight[k, r], a + U(k) * stride
            if u != F(0.0):
                for p in range(columns):
                    out[to + p] += u * source[b + p]
        to += columns


@compiled
def mix_columns(source, at, stride, rows, start, weight, n, out, to):
    """The same along the rows of source; those of out, as long as start, lie one after another."""
    size = U(start.shape[0])
    for _ in range(rows):
        for c in range(size):
            place = at + U(start[c])
            out[to + c] = weight[0, c] * source[place] + weight[1, c] * source[place + U(1)]
        for k in range(2, n):
            from_k = at + U(k)
            for c in range(size):
                out[to + c] += weight[k, c] * source[from_k + U(start[c])]
        at += stride
        to += size


@compiled
def load(pixels, at, step, unit, band, rows, columns, stride, source, to):
    """Stored values from `at` on, rows `step` apart, as float32 to rows of source, `stride` apart. What is left of a
    row is 0."""
    low, gain, fill, missing = unit.low[band], unit.gain[band], unit.fill[band], unit.missing
    for _ in range(rows):
        if unit.bounded:
            for c in range(columns):
                v = F(pixels[at + c])
                u = min(max((v - low) * gain, F(0.0)), F(1.0))
                source[to + c] = fill if v == missing or v != v else u
        else:
            for c in range(columns):
                source[to + c] = F(pixels[at + c])
        for c in range(columns, stride):
            source[to + c] = F(0.0)
        at += step
        to += stride


@compiled
def transpose(source, step, rows, columns, stride, out):
    """rows x columns of out, `stride` apart, from the columns of source, whose rows are `step` apart; what is left of a
    row is 0."""
    to = U(0)
    for r in range(rows):
        for c in range(columns):
            out[to + c] = source[c * step + r]
        for c in range(columns, stride):
            out[to + c] = F(0.0)
        to += stride


class Axis(NamedTuple):
    """Weights along an axis; see `triangle`. There are as many starts as pixels of the result."""

    start: Any
    weight: Any


class Scratch(NamedTuple):
    """Room for one band that is being resampled."""

    source: Any
    turned: Any
    half: Any
    whole: Any


@compiled
def up(n):
    """n rounded up, to where a row may begin."""
    return (n + LANES - 1) // LANES * LANES


@compiled
def resize(source, at, stride, rows, columns, down, n_down, across, n_across, half, out, to):
    """rows x columns of source to out, whose rows lie one after another: first along the axis that leaves less."""
    size, high = across.start.shape[0], down.start.shape[0]
    if rows <= high:
        mix_columns(source, at, stride, U(rows), across.start, across.weight, n_across, half, U(0))
        mix_rows(half, U(0), U(size), U(size), down.start, down.weight, n_down, out, to)
    else:
        wide = U(up(columns + 1))
        mix_rows(source, at, stride, wide, down.start, down.weight, n_down, half, U(0))
        mix_columns(half, U(0), wide, U(high), across.start, across.weight, n_across, out, to)


@compiled
def axis_of(length, size):
    taps = max(2, math.ceil(2.0 * length / max(size, 1)))
    return Axis(np.empty(size, np.uint32), np.empty((taps, size), F))


@compiled
def scratch_of(height, width, first, size):
    """For images (height, width), lying or turned, that become `size` pixels a side by way of `first`."""
    side, most = max(height, width, first), max(first, size)
    source = max(height * up(width + 1), width * up(height + 1))
    whole = first * first + up(first + 1) if first else 0
    room = np.zeros(2 * source, F)
    return Scratch(room[:source], room[source:], np.zeros(most * max(most, up(side + 1)), F), np.zeros(whole, F))


@compiled
def resample(images, i, unit, axes, scratch, view):
    """View i from its stored image: resized to (first, first) where that is not 0, cropped, resized and turned into
    view (C, S * S). The flips are in the weights."""
    bands, height, width = images.x.shape[1:]
    first, size = images.first, axes[0].start.shape[0]
    top, left, h, w = images.boxes[i, 0], images.boxes[i, 1], images.boxes[i, 2], images.boxes[i, 3]
    turned, flip_v, flip_h = images.codes[i] >= 4, images.codes[i] % 4 >= 2, images.codes[i] % 2 == 1
    down, across, down_0, across_0 = axes
    corner, rows, columns = top * width + left, h, w
    if first:
        corner, rows, columns = 0, height, width
    lying, stands = U(up(columns + 1)), (columns, rows) if turned else (rows, columns)
    if turned:
        top, left, h, w = left, top, w, h
    n, m = triangle(h, size, flip_v, down.start, down.weight), triangle(w, size, flip_h, across.start, across.weight)
    n_0 = m_0 = 0
    if first:
        n_0 = triangle(stands[0], first, False, down_0.start, down_0.weight)
        m_0 = triangle(stands[1], first, False, across_0.start, across_0.weight)
    as_it_is = h == size and w == size and not (turned or flip_v or flip_h or first)
    stride, whole, half = U(up(stands[1] + 1)), scratch.whole, scratch.half
    for b in range(bands):
        at, to = U((images.which[i] * bands + b) * height * width + corner), U(b * size * size)
        if as_it_is:
            load(images.flat, at, U(width), unit, b, U(rows), U(columns), U(size), view, to)
            continue
        source = scratch.source
        load(images.flat, at, U(width), unit, b, U(rows), U(columns), lying, source, U(0))
        if turned:
            transpose(source, lying, U(columns), U(rows), stride, scratch.turned)
            source = scratch.turned
        if first:
            resize(source, U(0), stride, stands[0], stands[1], down_0, n_0, across_0, m_0, half, whole, U(0))
            resize(whole, U(top * first + left), U(first), h, w, down, n, across, m, half, view, to)
        else:
            resize(source, U(0), stride, h, w, down, n, across, m, half, view, to)
