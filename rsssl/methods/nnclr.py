"""NNCLR: the positive of an image is its nearest neighbour among earlier images."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import gather, rank
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision, info_nce
from rsssl.methods.queue import Queue
from rsssl.models.heads import projector


class NNCLR(Method):
    """With a little help from my friends (Dwibedi et al. 2021, arXiv 2104.14548, equation 3).

    Until the queue is full for the first time an image is its own neighbour, as in SimCLR.

    Args:
        backbone: images to features.
        views: views of each image; every ordered pair of them counts.
        temperature: divides the cosine similarities in the cross entropy.
        queue: number of earlier embeddings among which neighbours are looked for.
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
        predictor: width of the predictor's hidden layer.
    """

    least_views = 2

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        temperature: float,
        queue: int,
        hidden: int,
        out: int,
        layers: int,
        predictor: int,
    ) -> None:
        super().__init__(backbone, views)
        self.temperature = temperature
        self.projector = projector(self.num_features, hidden, out, layers, bn_last=True)
        self.predictor = projector(out, predictor, out)
        self.queue = Queue(queue, out)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views, n = len(batch.views), len(batch.ids)
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = self.projector(features)
        p = gather(self.predictor(z).unflatten(0, (views, n)), dim=1)  # (V, W * B, out)
        neighbours = self.neighbours(z).unflatten(0, (views, n))
        pairs = [
            info_nce(neighbours[a], p[b], self.temperature, first=rank() * n) for a, b in permutations(range(views), 2)
        ]
        self.queue.push(F.normalize(z[:n].float(), dim=1))
        return {"loss": torch.stack(pairs).mean(), "embedding": features}

    @torch.no_grad()
    @full_precision
    def neighbours(self, z: Tensor) -> Tensor:
        """The queue's row nearest by cosine to each of the embeddings z (n, D): (n, D)."""
        z = F.normalize(z, dim=1)
        return self.queue.rows[(z @ self.queue.rows.T).argmax(1)] if self.queue.full else z
