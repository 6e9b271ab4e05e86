"""What each band of an image is like as a whole: where a classifier looks beside the features of its network."""

from __future__ import annotations

import torch
from torch import Tensor

STATISTICS = ("mean", "standard deviation", "least", "largest")


def band_statistics(x: Tensor) -> Tensor:
    """(B, C, H, W) preprocessed pixels -> (B, 4 C) float32: of each band the mean, then the standard deviations, the
    least and the largest values.

    Networks that have learnt from photographs, and views that change brightness, forget how bright a band is; water,
    sand and roofs differ by just that.
    """
    x = x.float().flatten(2)
    mean = x.mean(2)
    spread = (x - mean[..., None]).square().mean(2).sqrt()
    return torch.cat([mean, spread, x.amin(2), x.amax(2)], 1)
