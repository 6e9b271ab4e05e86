"""Crop, flip, turn and resize in one antialiased bilinear resampling.

The filter is the triangle of PyTorch's `interpolate(mode="bilinear", antialias=True)`, cut at the edges of the crop, so
the result equals "crop, then resize, then flip and turn".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsssl.models.card import SensorCard

Unit = tuple[Tensor, Tensor, Tensor]  # low, gain and fill of each band, (C,): value -> (value - low) * gain, in 0..1


class Frame(NamedTuple):
    """Where each view lies in its image: a box in pixels, then the symmetries. All (B,), on the CPU."""

    top: Tensor  # int64
    left: Tensor
    height: Tensor
    width: Tensor
    transpose: Tensor  # bool; done first
    flip_v: Tensor  # up and down, after the transposition
    flip_h: Tensor

    @staticmethod
    def full(b: int, height: int, width: int) -> Frame:
        zero, no = torch.zeros(b, dtype=torch.int64), torch.zeros(b, dtype=torch.bool)
        return Frame(zero, zero, zero + height, zero + width, no, no, no)

    def boxes(self) -> Tensor:
        """(B, 4) int64: top, left, height, width."""
        return torch.stack(list(self[:4]), 1)

    def codes(self) -> Tensor:
        """The symmetry of each view as `turn` numbers them, (B,) int64."""
        return self.transpose * 4 + self.flip_v * 2 + self.flip_h * 1


class Place(NamedTuple):
    """Where views come from, all of it on the device where they are made.

    Args:
        x: (B, C, H, W) stored images, of any type.
        which: (n,) the image of each view.
        boxes: (n, 4) int64: top, left, height, width, in pixels of the image resized to (first, first), or of the image
            itself where first is 0.
        codes: (n,) the symmetry of each view (see `turn`).
        first: see there.
        unit: what takes stored values to 0..1; None: they stay as they are.
        missing: the value that means "nothing here"; NaN for none.
    """

    x: Tensor
    which: Tensor
    boxes: Tensor
    codes: Tensor
    first: int = 0
    unit: Unit | None = None
    missing: float = torch.nan


def unit_of(card: SensorCard) -> tuple[Unit, float]:
    """What takes a card's stored values to 0..1, and the value that means "nothing here" (NaN for none), which becomes
    the band's mean."""
    low, high, mean = (torch.tensor(v, dtype=torch.float32) for v in (card.low, card.high, card.mean))
    return (low, 1 / (high - low), mean), torch.nan if card.nodata is None else float(card.nodata)


def turn(x: Tensor, symmetry: int) -> Tensor:
    """Symmetry 0 to 7 of the square, of x (..., S, S): transpose (4), then flip up-down (2) and left-right (1)."""
    if symmetry & 4:
        x = x.transpose(-2, -1)
    axes = ([-2] if symmetry & 2 else []) + ([-1] if symmetry & 1 else [])
    return x.flip(axes) if axes else x
