"""What an operation is: it draws its parameters for every sample, and applies them to a batch.

`draw` is a pure function of (key, sample ids), on the CPU, so the same parameters come out on every device and in every
batch. `apply` is the plain form, one operation after another, readable beside its torchvision reference. A policy runs
`fuse` instead, which gives the same numbers with fewer passes over the pixels (see `Pixels`).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rsssl.errors import UserError

log = logging.getLogger(__name__)
Params = dict[str, Tensor]  # each (B, ...) on the CPU

LUMA = (0.2989, 0.587, 0.114)  # the weights of torchvision's rgb_to_grayscale


def kernels(device: torch.device) -> Any:
    """The module of compiled loops for this device, or None where torch's own operations are to be used."""
    return _compiled() if device.type == "cpu" else None


@cache
def _compiled() -> Any:
    try:
        return importlib.import_module("rsssl.augment.kernels")
    except (ImportError, RuntimeError) as error:  # numba is missing, or has nowhere to keep what it compiled
        log.warning(
            "views are made several times slower on this CPU (%s): type pip install numba, or NUMBA_CACHE_DIR=FOLDER "
            "with a folder that can be written to",
            error,
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
        """Do in place what `apply` does. `apply` sees the values in 0..1 units."""
        pixels.settle()
        size = pixels.values.shape[-1]
        on_device = {name: pixels.put(value) for name, value in params.items()}
        pixels.replace(self.apply(pixels.values, on_device, size))


class Pixels:
    """Views being made: values (B, C, S, S) float32 and, still to be done, value -> matrix @ value + bias per sample.

    Brightness, contrast, saturation, grayscale and the standardisation are all of that form, so they cost a product of
    C x C matrices each, and one pass over the pixels in the end.
    """

    def __init__(self, values: Tensor, scale: float = 1.0, means: Tensor | None = None) -> None:
        """`scale` brings the values to 0..1 units, e.g. 1/255 for the bytes themselves; means: of the values, (B,
        C)."""
        b, c = values.shape[:2]
        self.values = values
        self.matrix = torch.eye(c, device=values.device).mul_(scale).repeat(b, 1, 1)  # (B, C, C)
        self.bias = torch.zeros(b, c, device=values.device)
        self._means = means

    def arrays(self) -> tuple[Any, Any, Any]:
        """values (B, C, S, S), matrix and bias as arrays on the same memory, for a kernel to work on in place."""
        self.values = self.values.contiguous()
        return self.values.numpy(), self.matrix.contiguous().numpy(), self.bias.contiguous().numpy()

    def put(self, value: Tensor) -> Tensor:
        return value.to(self.values.device, non_blocking=True)

    def gain(self, factor: Tensor, offset: Tensor | None = None) -> None:
        """value -> factor * value + offset; factor (B, 1 or C), offset (B, 1 or C)."""
        self.matrix = self.matrix * factor[:, :, None]
        self.bias = self.bias * factor if offset is None else self.bias * factor + offset

    def mix(self, matrix: Tensor) -> None:
        """value -> matrix @ value; matrix (B, C, C)."""
        self.matrix = matrix @ self.matrix
        self.bias = (matrix @ self.bias[:, :, None])[:, :, 0]

    def means(self) -> Tensor:
        """Mean of each band over each view, (B, C), in 0..1 units, as things stand."""
        if self._means is None:
            self._means = self.values.mean((2, 3))
        return (self.matrix @ self._means[:, :, None])[:, :, 0] + self.bias

    def settled(self) -> Tensor:
        """The values with everything done: a new (B, C, S, S)."""
        x = self.values
        return torch.baddbmm(self.bias[:, :, None], self.matrix, x.flatten(2)).view(x.shape)

    def settle(self) -> None:
        self.replace(self.settled())

    def replace(self, values: Tensor) -> None:
        """Put finished values (B, C, S, S), in 0..1 units, in the place of all."""
        eye = torch.eye(values.shape[1], device=values.device)
        self.values, self.matrix, self.bias = values, eye.repeat(len(values), 1, 1), torch.zeros_like(self.bias)
        self._means = None

    def blend_values(self, values: Tensor, rows: Tensor | None) -> None:
        """Exchange the values of some rows and keep what is still to be done to them."""
        if rows is None:
            self.values = values
        else:
            self.values[rows] = values
        self._means = None


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
