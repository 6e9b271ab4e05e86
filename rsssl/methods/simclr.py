"""SimCLR: two or more views of an image agree, and differ from all other images of the batch."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method
from rsssl.methods.losses import nt_xent
from rsssl.models.heads import projector


class SimCLR(Method):
    """A simple framework for contrastive learning (Chen et al. 2020, arXiv 2002.05709).

    Args:
        backbone: images to features.
        views: views of each image; 2 is the published method, more of them learn more from each pass over the data.
        temperature: divides the cosine similarities in the NT-Xent loss.
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
        bn_last: whether batch norm follows the projector's last layer too.
    """

    least_views = 2

    def __init__(
        self, backbone: nn.Module, views: int, temperature: float, hidden: int, out: int, layers: int, bn_last: bool
    ) -> None:
        super().__init__(backbone, views)
        self.temperature = temperature
        self.projector = projector(self.num_features, hidden, out, layers, bn_last)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = self.projector(features).unflatten(0, (len(batch.views), -1))  # (V, B, out)
        return {"loss": nt_xent(z, self.temperature, batch.places), "embedding": features}
