"""What images go through before a backbone sees them: one value that travels whole, and the layer that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.models.card import SensorCard

LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Preprocess:
    """How stored pixels become a network's input. It is made once and saved with the weights.

    Values go to 0..1 by the card's valid range, clipped; nodata and NaN become the band's mean; an antialiased bilinear
    resize follows where the size differs; then (value - mean) / std.

    Args:
        card: what the stored numbers mean.
        size: pixels of a side of the network's input.
        mean: per band in units of 0 to 1, of the backbone's training.
        std: per band in units of 0 to 1, of the backbone's training.
    """

    card: SensorCard
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= LARGEST:
            raise ValueError(f"size {self.size!r} is no number of pixels from 1 to {LARGEST}")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != self.card.n_bands:
                raise ValueError(f"{self.card.n_bands} bands need as many values of {name}, not {len(values)}")
            object.__setattr__(self, name, values)

    def at(self, size: int) -> Preprocess:
        """The same for another size."""
        return self if size == self.size else replace(self, size=size)

    def of(self, card: SensorCard) -> Preprocess:
        """The same for images of another card with the same bands."""
        return self if card is self.card else replace(self, card=card)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return {"card": self.card.to_dict(), "size": self.size, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`; other keys are left alone."""
        return cls(SensorCard.from_dict(values["card"]), values["size"], values["mean"], values["std"])


def as_it_is(card: SensorCard) -> Preprocess:
    """Images of a card in 0..1, at their own size."""
    return Preprocess(card, min(min(card.size), LARGEST), (0.0,) * card.n_bands, (1.0,) * card.n_bands)


class InputLayer(nn.Module):
    """`Preprocess` as a module: stored pixels (B, C, H, W) of any numeric type -> float32 (B, C, size, size).

    Plain tensor operations that compile and export; equal to the path of evaluation (`rsssl.augment.prepare`) up to
    rounding.

    Args:
        preprocess: what it does.
        order: for images whose bands come in another order: band i of the network is band order[i] of the card.
    """

    gain: Tensor
    offset: Tensor
    least: Tensor
    most: Tensor
    absent: Tensor

    def __init__(self, preprocess: Preprocess, order: Sequence[int] | None = None) -> None:
        super().__init__()
        card, self.size, self.nodata = preprocess.card, preprocess.size, preprocess.card.nodata
        self.order = None if order is None else list(order)

        def column(values: Sequence[float]) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64)[:, None, None]

        low, high, fill = (
            column(v) if order is None else column(v)[self.order] for v in (card.low, card.high, card.mean)
        )
        mean, std = column(preprocess.mean), column(preprocess.std)
        # Three numbers a band: clip(x * gain + offset) between what 0 and 1 become; and what nodata becomes.
        for name, values in {
            "gain": 1 / ((high - low) * std),
            "offset": (-low / (high - low) - mean) / std,
            "least": -mean / std,
            "most": (1 - mean) / std,
            "absent": (fill - mean) / std,
        }.items():
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(self.scale(x))

    def scale(self, x: Tensor) -> Tensor:
        """Values alone: (B, C, H, W) -> float32 (B, C, H, W)."""
        y = (x if self.order is None else x[:, self.order]).to(torch.float32)
        scaled = torch.addcmul(self.offset, y, self.gain).clamp_(self.least, self.most)
        missing = y.isnan() if x.is_floating_point() else None
        if self.nodata is not None:
            equal = y == self.nodata
            missing = equal if missing is None else missing | equal
        return scaled if missing is None else torch.where(missing, self.absent, scaled)

    def resize(self, x: Tensor) -> Tensor:
        """Size alone: (B, C, H, W) -> (B, C, size, size)."""
        return resized(x, (self.size, self.size))


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear and antialiased. Enlarging needs no filter, which takes twice as long."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=x.shape[-2] > size[0] or x.shape[-1] > size[1])
