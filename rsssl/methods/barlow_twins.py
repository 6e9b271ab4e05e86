"""Barlow Twins: each dimension of the embedding agrees between two views and differs from the other dimensions."""

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
def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """Distance of the cross-correlation matrix of two views from the identity (arXiv 2103.03230, equations 1 and 2).

    Args:
        a: (B, D) embeddings of the first view; correlations are taken over the batch.
        b: (B, D) embeddings of the second view.
        redundancy: weight of the squared correlations off the diagonal (lambda).

    Returns:
        A scalar.
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
        views: views of each image; every pair of them counts.
        redundancy: weight of the correlations between different dimensions (lambda).
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
    """

    least_views = 2

    def __init__(self, backbone: nn.Module, views: int, redundancy: float, hidden: int, out: int, layers: int) -> None:
        super().__init__(backbone, views)
        self.redundancy = redundancy
        self.projector = projector(self.num_features, hidden, out, layers)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = gather(self.projector(features).unflatten(0, batch.views.shape[:2]), dim=1)  # (V, W * B, out)
        pairs = [barlow_twins(a, b, self.redundancy) for a, b in combinations(z, 2)]
        return {"loss": torch.stack(pairs).mean(), "embedding": features}
