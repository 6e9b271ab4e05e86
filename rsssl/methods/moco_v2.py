"""MoCo v2: a query finds its key among a long queue of keys of earlier steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.device import sent
from rsssl.engine.distributed import gather, rank
from rsssl.methods.base import Method
from rsssl.methods.losses import info_nce
from rsssl.methods.queue import Queue
from rsssl.models.ema import MovingAverage
from rsssl.models.heads import projector
from rsssl.rng import fold, uniform


class MoCoV2(Method):
    """Improved baselines with momentum contrastive learning (Chen et al. 2020, arXiv 2003.04297).

    The first view of an image is the key, each further one a query. Batch normalisation lets a network recognise which
    images it was given together; MoCo hides that by computing keys on other GPUs, in other groups of images than the
    queries. Here the keys of a step are computed in random groups, which does the same on any number of processes.

    Args:
        backbone: images to features.
        views: views of each image, including the key.
        temperature: divides the cosine similarities in the cross entropy.
        momentum: of the key network; it stays constant.
        queue: keys of earlier steps that are kept. Take fewer than there are images, as an older key of the query's own
            image is a negative too.
        groups: number of parts in which the key network sees a batch.
        hidden: width of the projector's hidden layer.
        out: dimensions of the embedding that is compared.
    """

    least_views = 2

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        temperature: float,
        momentum: float,
        queue: int,
        groups: int,
        hidden: int,
        out: int,
    ) -> None:
        super().__init__(backbone, views)
        self.temperature, self.groups = temperature, groups
        self.projector = projector(self.num_features, hidden, out, norm=False)
        self.key = MovingAverage(backbone, self.projector, momentum=momentum, final=None)
        self.queue = Queue(queue, out)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views[1:].flatten(0, 1))  # ((V - 1) * B, D)
        q = self.projector(features)
        k = self.keys(batch)
        loss = info_nce(q, k.repeat(len(batch.views) - 1, 1), self.temperature, self.queue.rows.clone())
        self.queue.push(nn.functional.normalize(k, dim=1))
        return {"loss": loss, "embedding": features}

    def keys(self, batch: Batch) -> Tensor:
        """Keys (B, out) of the first views, computed in random groups of the images of all ranks."""
        n = len(batch.ids)
        # On the CPU, where it costs no wait for the device.
        order = gather(uniform(fold(batch.key, "groups", 0), batch.ids, 1)[:, 0]).argsort() - rank() * n
        groups = max(1, min(self.groups, len(order) // 2))  # batch norm needs two
        # Each group's images that are on this rank:
        here = [rows[(rows >= 0) & (rows < n)] for rows in order.tensor_split(groups)]
        rows = torch.cat(here)
        there, back = sent(torch.stack([rows, rows.argsort()]), batch.views.device)
        k = torch.cat([self.key(x) for x in batch.views[0][there].split([len(group) for group in here])])
        return k[back]

    def after_step(self, step: int, total_steps: int) -> None:
        self.key.follow(step, total_steps)
