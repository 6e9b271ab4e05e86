"""BYOL: predict the embedding that a slowly moving copy of the network gives another view; no negatives."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method
from rsssl.methods.losses import negative_cosine
from rsssl.models.ema import MovingAverage
from rsssl.models.heads import projector


class BYOL(Method):
    """Bootstrap your own latent (Grill et al. 2020, arXiv 2006.07733, equation 2, symmetrised).

    Args:
        backbone: images to features.
        views: views of each image; every ordered pair of them counts.
        momentum: of the target network at the start; it rises to 1 along half a cosine.
        hidden: width of the hidden layer of the projector and of the predictor.
        out: dimensions of the embedding that is compared.
    """

    least_views = 2

    def __init__(self, backbone: nn.Module, views: int, momentum: float, hidden: int, out: int) -> None:
        super().__init__(backbone, views)
        self.projector = projector(self.num_features, hidden, out)
        self.predictor = projector(out, hidden, out)
        self.target = MovingAverage(backbone, self.projector, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views = batch.views.flatten(0, 1)  # (V * B, C, S, S)
        features = self.backbone(views)
        p = self.predictor(self.projector(features)).unflatten(0, batch.views.shape[:2])
        z = self.target(views).unflatten(0, batch.views.shape[:2])
        return {"loss": 2 + 2 * negative_cosine(p, z), "embedding": features}

    def after_step(self, step: int, total_steps: int) -> None:
        self.target.follow(step, total_steps)
