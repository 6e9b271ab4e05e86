"""MoCo v3: queries find their keys among those of the batch, with a predictor and no queue."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.distributed import gather, rank
from rsssl.methods.base import Method
from rsssl.methods.losses import info_nce
from rsssl.models.ema import MovingAverage
from rsssl.models.heads import projector


class MoCoV3(Method):
    """An empirical study of training self-supervised vision transformers (Chen, Xie, He 2021, arXiv 2104.02057).

    Algorithm 1 of the paper.

    Args:
        backbone: images to features.
        views: views of each image; every ordered pair of them is a query and a key.
        temperature: divides the cosine similarities in the cross entropy, which is scaled by 2 * temperature as
            published.
        momentum: of the key network at the start; it rises to 1 along half a cosine.
        hidden: width of the hidden layers of the projector and of the predictor, which has two layers.
        out: dimensions of the embedding that is compared.
        layers: linear layers of the projector.
        frozen_stem: whether a transformer's patch embedding stays as it started (section 4.2), which keeps the training
            stable.
    """

    least_views = 2

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        temperature: float,
        momentum: float,
        hidden: int,
        out: int,
        layers: int,
        frozen_stem: bool,
    ) -> None:
        super().__init__(backbone, views)
        self.temperature = temperature
        if frozen_stem and hasattr(backbone, "patch_embed"):
            backbone.patch_embed.requires_grad_(False)  # type: ignore[union-attr, operator]
        self.projector = projector(self.num_features, hidden, out, layers, bn_last=True)
        self.predictor = projector(out, hidden, out, 2, bn_last=True)
        self.key = MovingAverage(backbone, self.projector, momentum=momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views, n = len(batch.views), len(batch.ids)
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        q = self.predictor(self.projector(features)).unflatten(0, (views, n))
        k = self.key(batch.views.flatten(0, 1)).unflatten(0, (views, n))
        k = gather(k, dim=1)  # (V, W * B, out)
        pairs = [info_nce(q[a], k[b], self.temperature, first=rank() * n) for a, b in permutations(range(views), 2)]
        return {"loss": 2 * self.temperature * torch.stack(pairs).mean(), "embedding": features}

    def after_step(self, step: int, total_steps: int) -> None:
        self.key.follow(step, total_steps)
