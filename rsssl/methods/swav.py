"""SwAV: predict from one view of an image the cluster that another view of it was assigned to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import share
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision
from rsssl.methods.prototypes import Prototypes, sinkhorn
from rsssl.methods.queue import Queue
from rsssl.models.heads import projector


@full_precision
def swapped_prediction(
    scores: Tensor, views: int, temperature: float, epsilon: float, earlier: Tensor | None = None
) -> Tensor:
    """Cross entropy between the assignment of each full view and the prediction of every other view (SwAV, equation 2).

    Args:
        scores: (V + L, B, K) cosines to the prototypes, of the full views and then of the small ones.
        views: V, the number of full views.
        temperature: divides the scores in the predictions.
        epsilon: of the assignments (see `sinkhorn`).
        earlier: (Q, K) scores of earlier images, the same on all ranks, which are assigned together with the batch's.

    Returns:
        A scalar.
    """
    n = scores.shape[1]
    log_p = F.log_softmax(scores / temperature, dim=2)
    assigned = scores[:views].detach()
    if earlier is not None:  # each rank assigns its share of them
        mine = earlier[share(len(earlier))].detach()
        assigned = torch.cat([assigned, mine.expand(views, -1, -1)], 1)
    q = sinkhorn(assigned, epsilon)[:, :n]  # (V, B, K)
    agreement = torch.einsum("sbk,vbk->vs", log_p, q) / n  # (V, V + L)
    return (agreement.diagonal().sum() - agreement.sum()) / (views * (len(scores) - 1))


class SwAV(Method):
    """Unsupervised learning by contrasting cluster assignments (Caron et al. 2020, arXiv 2006.09882).

    Args:
        backbone: images to features.
        views: full views of each image; the augmentation's small views are predicted from as well (augment=multicrop).
        prototypes: number of clusters.
        temperature: divides the cosines in the predictions.
        epsilon: divides the cosines in the assignments.
        queue: number of embeddings of earlier images (their first view) that are assigned together with the batch, so
            that a small batch can be spread evenly; they are used once the queue is full. 0: none.
        hidden: width of the projector's hidden layers.
        out: dimensions of the embedding that is compared with the prototypes.
        layers: linear layers of the projector.
    """

    least_views = 2
    uses_local = True

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        prototypes: int,
        temperature: float,
        epsilon: float,
        queue: int,
        hidden: int,
        out: int,
        layers: int,
    ) -> None:
        super().__init__(backbone, views)
        self.temperature, self.epsilon = temperature, epsilon
        self.projector = projector(self.num_features, hidden, out, layers)
        self.prototypes = Prototypes(out, prototypes)
        self.queue = Queue(queue, out) if queue else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        n = len(batch.ids)
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        z = [self.projector(features)]
        if batch.local is not None:
            z.append(self.projector(self.backbone(batch.local.flatten(0, 1))))
        scores = self.prototypes(torch.cat(z)).unflatten(0, (-1, n))  # (V + L, B, K)
        earlier = None
        if self.queue is not None and self.queue.full:
            with torch.no_grad():
                earlier = self.prototypes(self.queue.rows)
        loss = swapped_prediction(scores, len(batch.views), self.temperature, self.epsilon, earlier)
        if self.queue is not None:
            self.queue.push(F.normalize(z[0][:n].float(), dim=1))
        return {"loss": loss, "embedding": features}
