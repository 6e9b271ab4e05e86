"""The CPU's loops over pixels, compiled by numba: each is one pass where torch's operations need several.

They compute what with_torch.py computes, which serves any device. on_cpu.py alone imports this module: numba takes a
second. Every kernel takes samples start..stop of a batch, a thread's share. They release the interpreter's lock and
hold no state.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import math

import numpy as np
from numba import njit

F, ONE = np.float32, np.uint32(1)
STRIP = 256  # pixels at a time: what stays in the first cache
# Compiled at the first call, and kept on disk. Sums may be reordered; NaN keeps its meaning.
compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})


@compiled
def triangle(length, size, flip, start, weight):
    """Weights that resize `length` pixels to `size`: output o sums weight[k, o] * pixel[start[o] + k]; returns their
    number.

    As PyTorch's antialiased bilinear interpolation. start (size,) integers, weight (K, size) float32 are filled.
    """
    scale = length / size
    reach = max(scale, 1.0)
    most = 0
    for o in range(size):
        centre = (o + 0.5) * scale
        low = max(0, math.floor(centre - reach - 0.5) + 1)
        high = min(length, math.ceil(centre + reach - 0.5))
        to = size - 1 - o if flip else o
        start[to] = low
        total = 0.0
        for p in range(low, high):
            total += 1.0 - abs(p + 0.5 - centre) / reach
        for k in range(weight.shape[0]):
            p = low + k
            weight[k, to] = F((1.0 - abs(p + 0.5 - centre) / reach) / total) if p < high else F(0.0)
        most = max(most, high - low)
    return most


@compiled
def resize(
    source, width, row_start, row_weight, n_rows, col_start, col_weight, n_cols, transpose, flip, line, view, out
):
    """source (h, width) to out (S, S), rows first; returns the sum of out. The columns' flip is in their weights.

    transpose: row r of the result becomes a column of out; flip: counted from the other end. line, view: scratch.
    """
    size = col_start.shape[0]
    total = 0.0
    for p in range(width, line.shape[0]):
        line[p] = F(0.0)
    for r in range(row_start.shape[0]):
        first = row_start[r]
        # two pixels of each in one go: enlarging needs no more
        u, v = row_weight[0, r], row_weight[1, r]
        if v != F(0.0):
            for p in range(width):
                line[p] = u * source[first, p] + v * source[first + 1, p]
        else:
            for p in range(width):
                line[p] = u * source[first, p]
        for k in range(2, n_rows):
            u = row_weight[k, r]
            if u != F(0.0):
                for p in range(width):
                    line[p] += u * source[first + k, p]
        for c in range(size):
            view[c] = col_weight[0, c] * line[col_start[c]] + col_weight[1, c] * line[col_start[c] + ONE]
        for k in range(2, n_cols):
            for c in range(size):
                view[c] += col_weight[k, c] * line[col_start[c] + np.uint32(k)]
        part = F(0.0)
        for c in range(size):
            part += view[c]
        total += part
        to = row_start.shape[0] - 1 - r if flip else r
        if transpose:
            for c in range(size):
                out[c, to] = view[c]
        else:
            for c in range(size):
                out[to, c] = view[c]
    return total


@compiled
def resample(x, index, boxes, codes, first, low, gain, bounded, missing, fill, out, means, start, stop):
    """Views start..stop: stored images to crops, resized and turned, with the mean of each band.

    x (B, C, H, W); index (n,): the image of each view; boxes (n, 4): top, left, height, width, in pixels of the image
    resized to (first, first), or of the image itself when first is 0; codes (n,): transpose 4 + flip up-down 2 + flip
    left-right 1. When bounded, a value v becomes (v - low) * gain, kept in 0..1; where it is `missing` (NaN for none)
    or not a number it becomes fill; low, gain, fill (C,). Not bounded, values stay as stored. out (n, C, S, S) and
    means (n, C) are filled.
    """
    bands, height, width = x.shape[1:]
    size = out.shape[2]
    side = max(height, width, first)
    taps = int(2 * max(side / size, side / max(first, 1) if first else 1.0, 1.0)) + 3
    source, line, view = np.empty((height, width), F), np.empty(side + taps, F), np.empty(max(size, first), F)
    rows, cols = np.empty(size, np.uint32), np.empty(size, np.uint32)  # unsigned: no sign to be looked at
    row_weight, col_weight = np.empty((taps, size), F), np.empty((taps, size), F)
    whole = np.empty((first, first), F)
    rows_0, cols_0 = np.empty(first, np.uint32), np.empty(first, np.uint32)
    row_weight_0, col_weight_0 = np.empty((taps, first), F), np.empty((taps, first), F)
    n_rows_0 = n_cols_0 = 0
    if first:
        n_rows_0 = triangle(height, first, False, rows_0, row_weight_0)
        n_cols_0 = triangle(width, first, False, cols_0, col_weight_0)
    for i in range(start, stop):
        top, left, h, w = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        transpose, flip_v, flip_h = codes[i] >= 4, codes[i] % 4 >= 2, codes[i] % 2 == 1
        n_rows = triangle(h, size, False, rows, row_weight)
        n_cols = triangle(w, size, flip_v if transpose else flip_h, cols, col_weight)
        y0, x0, y1, x1 = (0, 0, height, width) if first else (top, left, top + h, left + w)
        for b in range(bands):
            shift, factor, instead = low[b], gain[b], fill[b]
            image = x[index[i], b, y0:y1, x0:x1]
            if bounded:
                for y in range(y1 - y0):
                    for p in range(x1 - x0):
                        v = F(image[y, p])
                        u = min(max((v - shift) * factor, F(0.0)), F(1.0))
                        source[y, p] = instead if v == missing or v != v else u
            else:
                for y in range(y1 - y0):
                    for p in range(x1 - x0):
                        source[y, p] = F(image[y, p])
            if first:
                resize(
                    source,
                    width,
                    rows_0,
                    row_weight_0,
                    n_rows_0,
                    cols_0,
                    col_weight_0,
                    n_cols_0,
                    False,
                    False,
                    line,
                    view,
                    whole,
                )
                total = resize(
                    whole[top : top + h, left : left + w],
                    w,
                    rows,
                    row_weight,
                    n_rows,
                    cols,
                    col_weight,
                    n_cols,
                    transpose,
                    flip_h if transpose else flip_v,
                    line,
                    view,
                    out[i, b],
                )
            else:
                total = resize(
                    source,
                    w,
                    rows,
                    row_weight,
                    n_rows,
                    cols,
                    col_weight,
                    n_cols,
                    transpose,
                    flip_h if transpose else flip_v,
                    line,
                    view,
                    out[i, b],
                )
            means[i, b] = total / (size * size)


@compiled
def rotate_hue(x, matrix, bias, turns, start, stop):
    """In place: x (n, 3, P) becomes matrix @ x + bias, (n, 3, 3) and (n, 3), its hue rotated by turns (n,)."""
    for i in range(start, stop):
        m00, m01, m02 = matrix[i, 0, 0], matrix[i, 0, 1], matrix[i, 0, 2]
        m10, m11, m12 = matrix[i, 1, 0], matrix[i, 1, 1], matrix[i, 1, 2]
        m20, m21, m22 = matrix[i, 2, 0], matrix[i, 2, 1], matrix[i, 2, 2]
        b0, b1, b2, turn = bias[i, 0], bias[i, 1], bias[i, 2], F(6.0) * turns[i]
        for p in range(x.shape[2]):
            v0, v1, v2 = x[i, 0, p], x[i, 1, p], x[i, 2, p]
            r = m00 * v0 + m01 * v1 + m02 * v2 + b0
            g = m10 * v0 + m11 * v1 + m12 * v2 + b1
            b = m20 * v0 + m21 * v1 + m22 * v2 + b2
            high, low = max(r, max(g, b)), min(r, min(g, b))
            spread = high - low
            u = (g - b) if high == r else ((b - r + F(2.0) * spread) if high == g else (r - g + F(4.0) * spread))
            u = u / max(spread, F(1e-12)) + turn
            u -= F(6.0) * F(math.floor(u * F(1 / 6)))
            x[i, 0, p] = low + spread * min(max(abs(u - F(3.0)) - F(1.0), F(0.0)), F(1.0))
            x[i, 1, p] = low + spread * min(max(F(2.0) - abs(u - F(2.0)), F(0.0)), F(1.0))
            x[i, 2, p] = low + spread * min(max(F(2.0) - abs(u - F(4.0)), F(0.0)), F(1.0))


@compiled
def add(total, w, a):
    """total (n,) += w a, of which a has n or more."""
    for p in range(total.shape[0]):
        total[p] += w * a[p]


@compiled
def add_4(total, w0, a, w1, b, w2, c, w3, d):
    """Four of them at once, for one reading and writing of total."""
    for p in range(total.shape[0]):
        total[p] += w0 * a[p] + w1 * b[p] + w2 * c[p] + w3 * d[p]


@compiled
def mirror(at, size):
    """A row's number where those beyond the edges are reflections."""
    at = abs(at)
    return 2 * (size - 1) - at if at >= size else at


@compiled
def blur(x, which, weights, start, stop):
    """In place: images which[start..stop] of x (n, C, S, S), each along rows and columns with its own weights (m, k),
    edges reflected."""
    size, k = x.shape[2], weights.shape[1]
    pad = k // 2
    line, half = np.empty(size + 2 * pad, F), np.empty((size, size), F)
    for m in range(start, stop):
        w = weights[m]
        for band in range(x.shape[1]):
            image = x[which[m], band]
            for y in range(size):
                for p in range(size):
                    line[pad + p] = image[y, p]
                for p in range(pad):
                    line[pad - 1 - p] = image[y, p + 1]
                    line[pad + size + p] = image[y, size - 2 - p]
                row = half[y]
                row[:] = F(0.0)
                for j in range(0, k - 3, 4):
                    add_4(
                        row, w[j], line[j:], w[j + 1], line[j + 1 :], w[j + 2], line[j + 2 :], w[j + 3], line[j + 3 :]
                    )
                for j in range(k - k % 4, k):
                    add(row, w[j], line[j:])
            for y in range(size):
                row = image[y]
                row[:] = F(0.0)
                for j in range(0, k - 3, 4):
                    a, b = half[mirror(y + j - pad, size)], half[mirror(y + j + 1 - pad, size)]
                    c, d = half[mirror(y + j + 2 - pad, size)], half[mirror(y + j + 3 - pad, size)]
                    add_4(row, w[j], a, w[j + 1], b, w[j + 2], c, w[j + 3], d)
                for j in range(k - k % 4, k):
                    add(row, w[j], half[mirror(y + j - pad, size)])


@compiled
def clamp(values, low, high, out):
    for p in range(out.shape[0]):
        out[p] = min(max(values[p], low), high)


@compiled
def finish(x, matrix, bias, mixes, low, high, start, stop):
    """In place: x (n, C, P) becomes matrix @ x + bias, (n, C, C) and (n, C), kept between low and high (C,).

    mixes: False when the matrices are diagonal.
    """
    bands, pixels = x.shape[1:]
    strips = np.empty((bands, STRIP), F)
    for i in range(start, stop):
        for first in range(0, pixels, STRIP):
            for c in range(bands):
                n = min(STRIP, pixels - first)
                strip = strips[c, :n]
                strip[:] = bias[i, c]
                if mixes:
                    m = matrix[i, c]
                    for s in range(0, bands - 3, 4):
                        a, b = x[i, s, first : first + n], x[i, s + 1, first : first + n]
                        d, e = x[i, s + 2, first : first + n], x[i, s + 3, first : first + n]
                        add_4(strip, m[s], a, m[s + 1], b, m[s + 2], d, m[s + 3], e)
                    for s in range(bands - bands % 4, bands):
                        add(strip, m[s], x[i, s, first : first + n])
                else:
                    add(strip, matrix[i, c, c], x[i, c, first : first + n])
            for c in range(bands):
                clamp(strips[c], low[c], high[c], x[i, c, first : first + STRIP])
