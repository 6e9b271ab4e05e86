"""The sensor card of images that a test makes up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess


def pre(x: Tensor, size: int, mean: Any, std: Any) -> Preprocess:
    """Bytes are n / 255, floats lie in 0 to 1 already."""
    n, high = x.shape[1], 255.0 if x.dtype == torch.uint8 else 1.0
    dtype = "uint8" if x.dtype == torch.uint8 else "float32"
    bands = tuple(f"b{i}" for i in range(n))
    card = SensorCard("t", bands, dtype, (0.0,) * n, (high,) * n, None, (0.5,) * n, (0.2,) * n, (), (size, size))
    return Preprocess(card, size, mean, std)
