"""Distillation: a small network learns to give what a large one gives, on images without labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method
from rsssl.methods.distillation import distance


class Distil(Method):
    """A linear layer on the student's features of a view has to tell the teacher's features of the whole image.

    Features of any two sizes are compared by their cosine, each taken from the mean of the batch (a regressor on the
    student, as Romero et al. 2015, FitNets, arXiv 1412.6550, section 2.2). The teacher sees each image once, before the
    training, so that a small student loses no time to a large teacher.

    Args:
        backbone: the student, images to features.
        views: views of each image.
        teacher: numbers (B,) of images in the pool to the teacher's features (B, D).
    """

    def __init__(self, backbone: nn.Module, views: int, teacher: Callable[[np.ndarray], Tensor]) -> None:
        super().__init__(backbone, views)
        self.teacher = teacher
        self.head = nn.Linear(self.num_features, teacher(np.zeros(1, np.int64)).shape[1])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        target = self.teacher(batch.ids.cpu().numpy()).to(features.device)
        target = target.repeat(len(batch.views), 1)
        return {"loss": distance(gather(self.head(features)), gather(target)), "embedding": features}
