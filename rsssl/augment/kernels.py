"""The CPU's loops over pixels, compiled by numba: a view is made from the stored image to the finished numbers while it
lies in the processor's cache, and written once.

They compute what with_torch.py computes, which serves any device. on_cpu.py alone imports this module: numba takes a
second. `paint` takes views start..stop of a batch, a thread's share; it releases the interpreter's lock.

numba keeps what it compiled until this file changes: after a change of kernels_resample.py touch this one.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rsssl.augment.kernels_resample import F, Images, U, Unit, axis_of, compiled, kept, resample, scratch_of

__all__ = ["BLUR", "DISTANCES", "FINISH", "HUE", "MEASURE", "SETTLE", "Images", "Passes", "Unit", "paint"]

MEASURE, SETTLE, HUE, BLUR, FINISH = range(5)  # the passes over a view
STRIP = 512  # pixels at a time: with all bands, what stays in the first cache
BLOCK = 2048  # pixels of one band at a time, for the same
DISTANCES = 3  # of a blur, at a time; with four, LLVM gives up on vectors


class Passes(NamedTuple):
    """What is done to the views, one pass after another. The a-th of SETTLE, HUE and FINISH has matrix[a], bias[a] and
    of_means[a], the h-th HUE turns[h], the b-th BLUR weights[b] and reach[b]."""

    kinds: Any  # (passes,)
    matrix: Any  # (., n, C, C)
    bias: Any  # (., n, C)
    of_means: Any  # (., n, C, C)
    turns: Any  # (., n)
    weights: Any  # (., n, 1 + 3 j): of the middle and of the pixels at each distance from it
    reach: Any  # (., n): the largest distance; 0 where the view is not blurred
    low: Any  # (C,): FINISH keeps the values between these
    high: Any


@compiled
def rotate_hue(view, pixels, m, bias, turn):
    """In place: view, 3 bands of `pixels`, becomes m @ view + bias, its hue rotated by `turn`."""
    m00, m01, m02 = m[0, 0], m[0, 1], m[0, 2]
    m10, m11, m12 = m[1, 0], m[1, 1], m[1, 2]
    m20, m21, m22 = m[2, 0], m[2, 1], m[2, 2]
    b0, b1, b2, turn, second, third = bias[0], bias[1], bias[2], F(6.0) * turn, pixels, U(2) * pixels
    for p in range(pixels):
        x, y, z = view[p], view[second + p], view[third + p]
        r = m00 * x + m01 * y + m02 * z + b0
        g = m10 * x + m11 * y + m12 * z + b1
        b = m20 * x + m21 * y + m22 * z + b2
        high, low = max(r, max(g, b)), min(r, min(g, b))
        spread = high - low
        u = (g - b) if high == r else ((b - r + F(2.0) * spread) if high == g else (r - g + F(4.0) * spread))
        u = u / max(spread, F(1e-12)) + turn
        u -= F(6.0) * np.floor(u * F(1 / 6))
        view[p] = low + spread * min(max(abs(u - F(3.0)) - F(1.0), F(0.0)), F(1.0))
        view[second + p] = low + spread * min(max(F(2.0) - abs(u - F(2.0)), F(0.0)), F(1.0))
        view[third + p] = low + spread * min(max(F(2.0) - abs(u - F(4.0)), F(0.0)), F(1.0))


@compiled
def mirror(at, size):
    """A row's number where those beyond the edges are reflections; near enough to them, one of the rows."""
    at = abs(at)
    return max(2 * (size - 1) - at, 0) if at >= size else at


@compiled
def spread(source, at, step, w, reach, out, to, n):
    """n pixels of out from `to` on: each the sum of those of source at -reach..reach steps, by w[the distance]. reach
    is 3, 6, 9...; `at`: where the first of them begin."""
    at += U(reach) * step
    one, two, three = step, U(2) * step, U(3) * step
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for p in range(n):
        q = at + p
        near = w0 * source[q] + w1 * (source[q - one] + source[q + one])
        out[to + p] = near + w2 * (source[q - two] + source[q + two]) + w3 * (source[q - three] + source[q + three])
    for j in range(DISTANCES, reach, DISTANCES):
        spread_more(source, at - U(j) * step, at + U(j) * step, step, w[j + 1 :], out, to, n)


@compiled
def spread_more(source, before, after, step, w, out, to, n):
    """Adds three distances more, before `before` and after `after`. (Within `spread` LLVM makes no vectors of it.)"""
    one, two, three = step, U(2) * step, U(3) * step
    w1, w2, w3 = w[0], w[1], w[2]
    for p in range(n):
        q, s = before + p, after + p
        near = w1 * (source[q - one] + source[s + one]) + w2 * (source[q - two] + source[s + two])
        out[to + p] += near + w3 * (source[q - three] + source[s + three])


@compiled
def copy(source, at, n, out, to):
    for p in range(n):
        out[to + p] = source[at + p]


@compiled
def blur(view, at, size, w, reach, lines, half):
    """In place: the band of view that begins at `at`, along rows and columns, edges reflected. lines, half: scratch."""
    pad = -(-reach // DISTANCES) * DISTANCES  # as far as `spread` looks
    stride = size + 2 * pad
    at_once = max(1, BLOCK // stride)
    made = U(at_once * stride)  # where in `lines` the results go
    for first in range(0, size, at_once):
        rows = min(at_once, size - first)
        for r in range(rows):
            row, line = at + U((first + r) * size), U(r * stride + pad)
            copy(view, row, U(size), lines, line)
            for p in range(pad):
                lines[line - U(1 + p)] = view[row + U(mirror(p + 1, size))]
                lines[line + U(size + p)] = view[row + U(mirror(size + p, size))]
        spread(lines, U(0), U(1), w, pad, lines, made, U(rows * stride - 2 * pad))
        for r in range(rows):
            copy(lines, made + U(r * stride), U(size), half, U((pad + first + r) * size))
    for p in range(pad):
        copy(half, U((pad + mirror(p + 1, size)) * size), U(size), half, U((pad - 1 - p) * size))
        copy(half, U((pad + mirror(size + p, size)) * size), U(size), half, U((pad + size + p) * size))
    for first in range(0, size * size, BLOCK):
        spread(half, U(first), U(size), w, pad, view, at + U(first), U(min(BLOCK, size * size - first)))


@compiled
def linear(view, at, n, m, bias, low, high, out):
    """n pixels of out from `at` on = m * view + bias, kept between low and high."""
    for p in range(n):
        out[at + p] = min(max(m * view[at + p] + bias, low), high)


@compiled
def mixed(view, first, pixels, n, s, bands, m, bias, low, high, out, to):
    """n pixels of out from `to` on = bias + those of the bands s..s+4 of view by m; when s is not 0, they are added to
    what is there."""
    w0, w1, w2, w3 = m[s], F(0.0), F(0.0), F(0.0)
    a = b = c = d = first + U(s) * pixels
    if s + 1 < bands:
        w1, b = m[s + 1], a + pixels
    if s + 2 < bands:
        w2, c = m[s + 2], b + pixels
    if s + 3 < bands:
        w3, d = m[s + 3], c + pixels
    if s == 0:
        for p in range(n):
            v = bias + (w0 * view[a + p] + w1 * view[b + p] + w2 * view[c + p] + w3 * view[d + p])
            out[to + p] = min(max(v, low), high)
    else:
        for p in range(n):
            v = out[to + p] + (w0 * view[a + p] + w1 * view[b + p] + w2 * view[c + p] + w3 * view[d + p])
            out[to + p] = min(max(v, low), high)


@compiled
def of_gray(m, own, a, b):
    """Whether m is diag(own) + a b', filled in (C,): as it is where colours are drawn towards a common gray."""
    bands, largest = len(a), F(0.0)
    a[0], a[1], b[0] = F(1.0), F(0.0), F(0.0)
    b[1:] = m[0, 1:]
    if b[1] == F(0.0) or b[2] == F(0.0):
        return False
    a[2:], a[1] = m[2:, 1] / b[1], m[1, 2] / b[2]
    if a[1] == F(0.0):
        return False
    b[0] = m[1, 0] / a[1]
    for c in range(bands):
        own[c] = m[c, c] - a[c] * b[c]
        for s in range(bands):
            largest = max(largest, abs(m[c, s]))
    for c in range(bands):
        for s in range(bands):
            if c != s and abs(m[c, s] - a[c] * b[s]) > F(1e-6) * largest:
                return False
    return True


@compiled
def toward(view, at, n, own, gray, share, bias, low, high, out):
    """n pixels of out from `at` on = own * view + share * gray + bias, kept between low and high."""
    for p in range(n):
        out[at + p] = min(max(own * view[at + p] + share * gray[p] + bias, low), high)


@compiled
def finish(view, pixels, m, bias, low, high, out):
    """view, C bands of `pixels`, becomes m @ view + bias, kept between low and high (C,), in out."""
    bands, infinite = len(bias), F(np.inf)
    mixes = False
    for c in range(bands):
        for s in range(bands):
            mixes |= c != s and m[c, s] != F(0.0)
    if not mixes:
        for c in range(bands):
            linear(view, U(c) * U(pixels), U(pixels), m[c, c], bias[c], low[c], high[c], out)
        return
    own, a, b, gray = np.empty(bands, F), np.empty(bands, F), np.empty(bands, F), np.empty(STRIP, F)
    by_gray = bands > 4 and of_gray(m, own, a, b)
    for first in range(0, pixels, STRIP):
        n = U(min(STRIP, pixels - first))
        if by_gray:
            for s in range(0, bands, 4):
                mixed(view, U(first), U(pixels), n, s, bands, b, F(0.0), -infinite, infinite, gray, U(0))
        for c in range(bands):
            at = U(c * pixels + first)
            if by_gray:
                toward(view, at, n, own[c], gray, a[c], bias[c], low[c], high[c], out)
                continue
            for s in range(0, bands, 4):
                least, most = (low[c], high[c]) if s + 4 >= bands else (-infinite, infinite)
                mixed(view, U(first), U(pixels), n, s, bands, m[c], bias[c], least, most, out, at)


@compiled
def measure(view, pixels, means):
    """The mean of each band of view."""
    at = U(0)
    for c in range(means.shape[0]):
        total = 0.0
        for first in range(0, pixels, STRIP):
            part, n = F(0.0), U(min(STRIP, pixels - first))
            for p in range(n):
                part += view[at + p]
            total += part
            at += n
        means[c] = total / pixels


@compiled
def shift(bias, of_means, means, out):
    """out (C,) = bias + of_means @ means."""
    for c in range(out.shape[0]):
        total = bias[c]
        for s in range(out.shape[0]):
            total += of_means[c, s] * means[s]
        out[c] = total


@kept
def paint(images, unit, passes, out, start, stop):
    """Views start..stop of out (n, C * S * S)."""
    bands, height, width = images.x.shape[1:]
    pixels, first, side = out.shape[1] // bands, images.first, max(height, width)
    size = np.int64(round(math.sqrt(pixels)))
    axes = axis_of(first or side, size), axis_of(first or side, size), axis_of(side, first), axis_of(side, first)
    scratch, view, spare = scratch_of(height, width, first, size), np.empty(out.shape[1], F), np.empty(out.shape[1], F)
    means, bias, never = np.zeros(bands, F), np.empty(bands, F), np.full(bands, -np.inf, F)
    pad = passes.weights.shape[2] - 1  # the farthest that a blur looks
    lines, half = np.zeros(2 * max(BLOCK, size + 2 * pad), F), np.zeros((size + 2 * pad) * size, F)
    for i in range(start, stop):
        resample(images, i, unit, axes, scratch, view)
        affine = hues = blurs = 0
        for kind in passes.kinds:
            if kind == MEASURE:
                measure(view, pixels, means)
            elif kind == BLUR:
                reach = passes.reach[blurs, i]
                for b in range(bands if reach else 0):
                    blur(view, U(b * pixels), size, passes.weights[blurs, i], reach, lines, half)
                blurs += 1
            else:
                m = passes.matrix[affine, i]
                shift(passes.bias[affine, i], passes.of_means[affine, i], means, bias)
                affine += 1
                turn = F(0.0)
                if kind == HUE:
                    turn = passes.turns[hues, i]
                    hues += 1
                if turn != F(0.0):
                    rotate_hue(view, U(pixels), m, bias, turn)
                    continue
                done = kind == FINISH
                low, high, to = (passes.low, passes.high, out[i]) if done else (never, -never, spare)
                finish(view, pixels, m, bias, low, high, to)
                if not done:
                    view, spare = spare, view
        if len(passes.kinds) == 0 or passes.kinds[-1] != FINISH:
            out[i] = view
