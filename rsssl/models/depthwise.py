"""Depthwise convolutions on a CPU, with the loops of depthwise_loops.py on all threads."""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl.models.geometry import Geometry
from rsssl.threads import over_samples

SHARES = 8  # of a batch, whose sums are added up at the end: the same ones for any number of threads


@cache
def _loops() -> Any:
    try:
        return importlib.import_module("rsssl.models.depthwise_loops")
    except (ImportError, RuntimeError):  # numba is missing, or has nowhere to keep what it compiled
        return None


def fits(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the loops serve this convolution: depthwise, square, float32, on a CPU."""
    square = weight.shape[2] == weight.shape[3] and geometry.stride[0] == geometry.stride[1]
    depthwise = geometry.groups == x.shape[1] == len(weight) and weight.shape[1] == 1 and geometry.dilation == (1, 1)
    return depthwise and square and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _loops()


def forward(x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, low: float, high: float) -> Tensor:
    """The convolution of maps x (n, C, H, W) with weight (C, 1, K, K), plus bias (C,), kept between low and high."""
    shape = _shape(x, weight, geometry, low, high)
    sides = len(x), shape.channels, shape.height, shape.width
    y = torch.empty(sides, memory_format=torch.channels_last)
    over_samples(_loops().forward, len(x), _rows(x), _taps(weight), bias.detach().numpy(), _rows(y), shape)
    return y


def backward(
    x: Tensor, weight: Tensor, y: Tensor | None, of_y: Tensor, geometry: Geometry, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias that follow from that of y, which `forward` gave; it may be
    left out where there are no limits."""
    shape, taps = _shape(x, weight, geometry, low, high), _taps(weight)
    of_x = torch.empty_like(x, memory_format=torch.channels_last)
    of_taps, of_bias = torch.zeros(SHARES, *taps.shape), torch.zeros(SHARES, shape.channels)
    towards = _rows(of_y)
    maps = _rows(x), taps, towards if y is None else _rows(y), towards
    over_samples(_loops().backward, SHARES, *maps, _rows(of_x), of_taps.numpy(), of_bias.numpy(), shape)
    return of_x, of_taps.sum(0).t().reshape(weight.shape), of_bias.sum(0)


def _shape(x: Tensor, weight: Tensor, geometry: Geometry, low: float, high: float) -> Any:
    kernel, stride = weight.shape[-1], geometry.stride[0]
    sides = x.shape[1:], geometry.out(x.shape[-2:], weight.shape[-2:])
    limits = (np.float32(limit if math.isfinite(limit) else math.nan) for limit in (low, high))
    return _loops().Shape(*sides[0], *sides[1], kernel, stride, geometry.top, geometry.left, *limits)


def _rows(maps: Tensor) -> np.ndarray:
    """(n, C, H, W) as rows of H * W * C numbers: the same memory where it is channels-last."""
    return maps.detach().permute(0, 2, 3, 1).contiguous().view(len(maps), -1).numpy()


def _taps(weight: Tensor) -> np.ndarray:
    return weight.detach().flatten(1).t().contiguous().numpy()
