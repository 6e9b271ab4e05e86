"""VICReg: views agree, every dimension varies over the batch, and no two dimensions vary together."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision
from rsssl.models.heads import projector


@full_precision
def vicreg(a: Tensor, b: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """The loss of two views' embeddings (arXiv 2105.04906, equation 6, as in its authors' code).

    Unlike equation 6 their code halves the variance term, and so do we: the published results were obtained that way.

    Args:
        a: (B, D) embeddings of the first view.
        b: (B, D) embeddings of the second view.
        invariance: weight of the distance between the views.
        variance: weight of the term that keeps each dimension's standard deviation at 1 or more.
        covariance: weight of the squared covariances between dimensions.

    Returns:
        A scalar.
    """
    loss = invariance * F.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        spread = (z.var(0) + 1e-4).sqrt()
        cov = z.T @ z / (len(z) - 1)  # (D, D)
        off = cov.square().sum() - cov.diagonal().square().sum()
        loss = loss + variance * F.relu(1 - spread).mean() / 2 + covariance * off / z.shape[1]
    return loss


class VICReg(Method):
    """Variance-invariance-covariance regularisation (Bardes, Ponce, LeCun 2022, arXiv 2105.04906).

    Args:
        backbone: images to features.
        views: views of each image; every pair of them counts.
        invariance: weight of the distance between the views.
        variance: weight of the term that keeps each dimension's standard deviation at 1 or more.
        covariance: weight of the squared covariances between dimensions.
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
    """

    least_views = 2

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        invariance: float,
        variance: float,
        covariance: float,
        hidden: int,
        out: int,
        layers: int,
    ) -> None:
        super().__init__(backbone, views)
        self.weights = (invariance, variance, covariance)
        self.projector = projector(self.num_features, hidden, out, layers)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = gather(self.projector(features).unflatten(0, batch.views.shape[:2]), dim=1)  # (V, W * B, out)
        pairs = [vicreg(a, b, *self.weights) for a, b in combinations(z, 2)]
        return {"loss": torch.stack(pairs).mean(), "embedding": features}
