"""What images go through before a backbone sees them, as a module that travels with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.models.card import SensorCard


class Preprocess(nn.Module):
    """Stored pixels x (B, C, H, W), any numeric type -> float32 (B, C, size, size), standardised.

    To 0..1 by the card's valid range, clipped; nodata and NaN become the band's mean; (value - mean) / std; antialiased bilinear
    resize where the size differs. Plain tensor operations that compile and export; equal to the path of evaluation
    (`rsssl.augment.prepare`) up to rounding.

    Args:
        card: what the stored numbers mean. size: pixels. mean, std: per band in 0..1 units, those of the backbone's training.
    """

    gain: Tensor
    offset: Tensor
    least: Tensor
    most: Tensor
    absent: Tensor

    def __init__(self, card: SensorCard, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.size, self.nodata, self.mean, self.std = size, card.nodata, tuple(mean), tuple(std)

        def column(values: tuple[float, ...] | Tensor) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64)[:, None, None]

        low, high = column(card.low), column(card.high)
        # Three numbers a band: clip(x * gain + offset) between what 0 and 1 become; and what nodata becomes.
        for name, values in {
            "gain": 1 / ((high - low) * column(std)),
            "offset": (-low / (high - low) - column(mean)) / column(std),
            "least": -column(mean) / column(std),
            "most": (1 - column(mean)) / column(std),
            "absent": (column(card.mean) - column(mean)) / column(std),
        }.items():
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(self.scale(x))

    def scale(self, x: Tensor) -> Tensor:
        """Values alone: (B, C, H, W) -> float32 (B, C, H, W)."""
        y = x.to(torch.float32)
        scaled = torch.addcmul(self.offset, y, self.gain).clamp_(self.least, self.most)
        missing = y.isnan() if x.is_floating_point() else None
        if self.nodata is not None:
            equal = y == self.nodata
            missing = equal if missing is None else missing | equal
        return scaled if missing is None else torch.where(missing, self.absent, scaled)

    def resize(self, x: Tensor) -> Tensor:
        """Size alone: (B, C, H, W) -> (B, C, size, size)."""
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
