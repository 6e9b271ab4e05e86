"""SimSiam: predict the embedding of another view, whose gradient is stopped; neither negatives nor a second network."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method
from rsssl.methods.losses import negative_cosine
from rsssl.models.heads import projector


class SimSiam(Method):
    """Exploring simple Siamese representation learning (Chen and He 2021, arXiv 2011.10566, algorithm 1).

    Args:
        backbone: images to features.
        views: views of each image; every ordered pair of them counts.
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
        bottleneck: width of the predictor's hidden layer.
    """

    least_views = 2

    def __init__(self, backbone: nn.Module, views: int, hidden: int, out: int, layers: int, bottleneck: int) -> None:
        super().__init__(backbone, views)
        self.projector = projector(self.num_features, hidden, out, layers, bn_last=True)
        self.predictor = projector(out, bottleneck, out)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = self.projector(features).unflatten(0, batch.views.shape[:2])
        p = self.predictor(z.flatten(0, 1)).unflatten(0, batch.views.shape[:2])
        return {"loss": negative_cosine(p, z.detach()), "embedding": features}
