"""BYOL: predict a slowly moving copy's embedding of another view; no negatives."""

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
        views: views of each image; every ordered pair counts.
        momentum: of the target network, rising to 1 along half a cosine.
        hidden, out: widths of the projector and of the predictor.
    """

    least_views = 2

    def __init__(
        self, backbone: nn.Module, views: int = 2, momentum: float = 0.99, hidden: int = 512, out: int = 128
    ) -> None:
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
