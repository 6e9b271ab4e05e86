"""The space in which images of a pool are near to each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from rsssl.evaluation.on_disk import Features, in_parts, mean_of

FLAT = 1e-6  # of the largest variance: axes with less of it are rounding, as those beyond the number of images


class PoolSpace(nn.Module):
    """Features less the pool's mean, of unit length; in the pool's principal axes, their spread half evened out; of
    unit length again.

    Length says how strongly an image looks like anything, and not what it looks like (SimpleShot, Wang et al. 2019,
    arXiv 1911.04623, "CL2N"). An axis of variance v is divided by v^(1/4): between the features' own proportions, where
    a few axes decide, and equal ones, where noise does.

    Args:
        mean: (D,) of the pool.
        axes: (D, d) scaled principal axes of the pool.
        offset: (d,) where the mean of the unit vectors comes to lie.
    """

    mean: Tensor
    axes: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor, axes: Tensor, offset: Tensor) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("axes", axes), ("offset", offset)):
            self.register_buffer(name, value)

    @classmethod
    def of(cls, *pool: Features, dimensions: int) -> PoolSpace:
        """The space of the features (N, D) of a pool's images, in one part or several, with at most so many
        dimensions."""
        n, mean = sum(map(len, pool)), mean_of(*pool)
        total, products = torch.zeros(len(mean)).double(), torch.zeros(len(mean), len(mean)).double()
        for part in in_parts(*pool):
            unit = normalize(part - mean, dim=1).double()
            total += unit.sum(0)
            products.addmm_(unit.mT, unit)
        centre = total / n
        variance, axes = torch.linalg.eigh(products / n - torch.outer(centre, centre))
        alive = variance[-dimensions:] > FLAT * variance[-1]
        axes = (axes[:, -dimensions:] * variance[-dimensions:].clamp_min(1e-300) ** -0.25)[:, alive].float()
        return cls(mean, axes, centre.float() @ axes)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) -> (B, d) of unit length."""
        unit = normalize(features.float() - self.mean, dim=1)
        return normalize(unit @ self.axes - self.offset, dim=1)

    def beyond(self, features: Tensor) -> Tensor:
        """(B,) the share of features (B, D), less the pool's mean, that the axes do not hold."""
        unit = normalize(features.float() - self.mean, dim=1)
        held = unit @ normalize(self.axes, dim=0)
        return (1 - held.square().sum(1)).clamp_min(0)
