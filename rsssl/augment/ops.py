"""What an operation is: it draws its parameters for every sample, and applies them to a batch.

`draw` is a pure function of (key, sample ids), on the CPU, so the same parameters come out on every device and in every
batch. `apply` is the plain form, one operation after another, readable beside its torchvision reference. A policy runs
`fuse` instead, which gives the same numbers with fewer passes over the pixels (see pixels.py).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from rsssl.augment import with_torch
from rsssl.augment.pixels import Canvas, Pixels
from rsssl.augment.resample import Place
from rsssl.errors import UserError

log = logging.getLogger(__name__)
Params = dict[str, Tensor]  # each (B, ...) on the CPU

LUMA = (0.2989, 0.587, 0.114)  # the weights of torchvision's rgb_to_grayscale


def canvas(place: Place, out: Tensor) -> Any:
    """The views of `place`, to be made into out (n, C, S, S): on_cpu's canvas, or one with the passes of on_gpu, or of
    with_torch, which serves any device."""
    kind = out.device.type
    loops = (_compiled("on_cpu") if kind == "cpu" else _compiled("on_gpu") if kind == "cuda" else None) or with_torch
    return loops.Canvas(place, out) if hasattr(loops, "Canvas") else Canvas(loops, place, out)


@cache
def _compiled(name: str) -> Any:
    try:
        return importlib.import_module(f"rsssl.augment.{name}")
    except (ImportError, RuntimeError) as error:  # numba or Triton is missing, or has nowhere to keep what it compiled
        needs = "numba" if name == "on_cpu" else "triton"
        log.warning(
            "views are made several times slower here (%s): type pip install %s%s",
            error,
            needs,
            ", or NUMBA_CACHE_DIR=FOLDER with a folder that can be written to" if needs == "numba" else "",
        )
        return None


class Operation:
    """One step of a policy. `p` is the probability, drawn for each sample, that it happens."""

    def __init__(self, p: float = 1.0) -> None:
        self.p = number(self, "p", p, 0.0, 1.0)

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        """Parameters for samples ids (B,) int64 on the CPU, of images (bands, height, width)."""
        raise NotImplementedError

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        """The plain form: x (B, C, H, W) float32 with values in 0..1; never clamps. `size` is the view's."""
        raise NotImplementedError

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


class PixelOperation(Operation):
    """An operation that leaves the shape (B, C, size, size) as it is. A user's own needs `draw` and `apply` only."""

    mixes = True  # a band of the result may depend on the other bands

    def fuse(self, pixels: Pixels, params: Params) -> None:
        """Adds to what is to be done with the pixels what `apply` does. `apply` sees the values in 0..1 units."""
        pixels.apply(self, params)


def rows_of(mask: Tensor) -> Tensor | None:
    """Indices of the true entries of a CPU mask (B,), or None when all are true (then nothing need be gathered)."""
    return None if bool(mask.all()) else mask.nonzero()[:, 0]


def number(owner: object, name: str, value: float, low: float, high: float) -> float:
    """Check a number from a config. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        who = type(owner).__name__
        raise UserError(
            f"augment: {who}({name}={value!r}) is not a number from {low:g} to {high:g}; "
            f"write, e.g., {name}: {min(0.5, high):g}"
        )
    return float(value)


def interval(
    owner: object, name: str, value: Sequence[float], low: float, high: float, example: str
) -> tuple[float, float]:
    """Check a pair [a, b] from a config, low < a <= b <= high. Raises UserError."""
    try:
        a, b = (float(v) for v in value)
    except (TypeError, ValueError):
        a, b = 1.0, 0.0
    if not low < a <= b <= high:
        who = type(owner).__name__
        raise UserError(
            f"augment: {who}({name}={value}) is not a pair [a, b] with {low:g} < a <= b <= {high:g}; "
            f"write, e.g., {name}: {example}"
        )
    return a, b
