"""The CPU's loops of depthwise convolutions, compiled by numba: padding, convolution, bias and limits in one pass.

Maps lie channels-last, an image in one row, so that the inner loops run over the channels; the taps of the weights lie
one after another, (K * K, C). depthwise.py alone imports this module: numba takes a second.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

F, U = np.float32, np.uint64  # places are unsigned: a signed one would be looked at, as it may count from the end
# Sums may be reordered; NaN keeps its meaning.
compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})


class Shape(NamedTuple):
    """Maps (C, H, W) come in, maps (C, height, width) go out."""

    channels: int
    H: int
    W: int
    height: int
    width: int
    kernel: int
    stride: int
    top: int  # rows and columns of zeros before the first
    left: int
    low: Any  # what goes out is kept between these; float32, NaN for no limit
    high: Any


@compiled
def forward(x, weight, bias, y, shape, start, stop):
    """y = weight * x + bias within the limits, of images start..stop: x (n, H * W * C), y (n, height * width * C)."""
    channels, low, high = U(shape.channels), shape.low, shape.high
    for n in range(start, stop):
        source, out = x[n], y[n]
        for i in range(shape.height):
            for j in range(shape.width):
                o = U((i * shape.width + j) * shape.channels)
                for c in range(channels):
                    out[o + c] = bias[c]
                for u in range(shape.kernel):
                    row = i * shape.stride - shape.top + u
                    if row < 0 or row >= shape.H:
                        continue
                    for v in range(shape.kernel):
                        column = j * shape.stride - shape.left + v
                        if column < 0 or column >= shape.W:
                            continue
                        a, w = U((row * shape.W + column) * shape.channels), weight[u * shape.kernel + v]
                        for c in range(channels):
                            out[o + c] += source[a + c] * w[c]
                for c in range(channels):
                    value = out[o + c]  # what is not a number stays so
                    out[o + c] = low if value < low else high if value > high else value


@compiled
def backward(x, weight, y, of_y, of_x, of_weight, of_bias, shape, start, stop):
    """The gradients in shares start..stop of the images, of len(of_weight) in all: of_x (n, H * W * C) is filled,
    of_weight and of_bias have a part for each share, which is added to. An output at a limit passes no gradient on."""
    channels, low, high = U(shape.channels), shape.low, shape.high
    inner = np.empty(shape.channels, F)
    shares, images = len(of_weight), len(x)
    for share in range(start, stop):
        for n in range(images * share // shares, images * (share + 1) // shares):
            source, out, given, found = x[n], y[n], of_y[n], of_x[n]
            found[:] = F(0)
            for i in range(shape.height):
                for j in range(shape.width):
                    o = U((i * shape.width + j) * shape.channels)
                    for c in range(channels):
                        inner[c] = F(0) if out[o + c] == low or out[o + c] == high else given[o + c]
                        of_bias[share, c] += inner[c]
                    for u in range(shape.kernel):
                        row = i * shape.stride - shape.top + u
                        if row < 0 or row >= shape.H:
                            continue
                        for v in range(shape.kernel):
                            column = j * shape.stride - shape.left + v
                            if column < 0 or column >= shape.W:
                                continue
                            a, tap = U((row * shape.W + column) * shape.channels), u * shape.kernel + v
                            w, sums = weight[tap], of_weight[share, tap]
                            for c in range(channels):
                                found[a + c] += inner[c] * w[c]
                                sums[c] += inner[c] * source[a + c]
