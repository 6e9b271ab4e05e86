"""Barlow Twins: the dimensions of two views' embeddings agree one by one, and differ from one another."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision
from rsssl.models.heads import projector


@full_precision
def barlow_twins(a: Tensor, b: Tensor, redundancy: float = 5e-3) -> Tensor:
    """Distance of the cross-correlation of a (B, D) and b (B, D) from the identity (arXiv 2103.03230, equations 1 and 2).

    The correlations are over the batch; squares off the diagonal count `redundancy` (lambda) times. A scalar.
    """
    a, b = (nn.functional.batch_norm(z, None, None, training=True) for z in (a, b))
    c = a.T @ b / len(a)  # (D, D)
    diagonal = c.diagonal()
    off = c.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + redundancy * off


class BarlowTwins(Method):
    """Self-supervised learning via redundancy reduction (Zbontar et al. 2021, arXiv 2103.03230).

    Args:
        backbone: images to features.
        views: views of each image; every pair counts.
        redundancy: weight of the correlations between dimensions (lambda).
        hidden, out, layers: of the projector.
    """

    least_views = 2

    def __init__(
        self,
        backbone: nn.Module,
        views: int = 2,
        redundancy: float = 5e-3,
        hidden: int = 512,
        out: int = 512,
        layers: int = 3,
    ) -> None:
        super().__init__(backbone, views)
        self.redundancy = redundancy
        self.projector = projector(self.num_features, hidden, out, layers)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = gather(self.projector(features).unflatten(0, batch.views.shape[:2]), dim=1)  # (V, W * B, out)
        pairs = [barlow_twins(a, b, self.redundancy) for a, b in combinations(z, 2)]
        return {"loss": torch.stack(pairs).mean(), "embedding": features}
