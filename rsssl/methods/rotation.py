"""Rotation: by how many quarter turns was the image turned?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method
from rsssl.methods.losses import classification


class Rotation(Method):
    """Unsupervised representation learning by predicting image rotations (Gidaris et al. 2018, arXiv 1803.07728).

    Every view is shown in all four orientations, as published. Images from above have no top: what can be learned is
    where the shadows fall and in which direction the sensor scans; nothing, if the augmentation itself turns images.

    Args:
        backbone: images to features.
        views: views of each image.
    """

    def __init__(self, backbone: nn.Module, views: int) -> None:
        super().__init__(backbone, views)
        self.head = nn.Linear(self.num_features, 4)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        features = self.backbone(all_turns(images))  # (4 * V * B, D)
        target = torch.arange(4, device=images.device).repeat_interleave(len(images))
        loss, solved = classification(self.head(features), target)
        return {"loss": loss, "embedding": features, "turns_found": solved}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A turned image, the same turned back by the network's answer, and the image as it was."""
        images = batch.views.flatten(0, 1)
        rows = torch.arange(len(images), device=images.device)
        turned = all_turns(images).unflatten(0, (4, -1))[rows % 4, rows]
        answer = self.head(self.backbone(turned)).argmax(1)
        back = all_turns(turned).unflatten(0, (4, -1))[-answer % 4, rows]
        return {"turned": turned, "turned back": back, "image": images}


def all_turns(images: Tensor) -> Tensor:
    """(n, C, S, S) -> (4 * n, C, S, S): turned by 0, 1, 2 and 3 quarter turns."""
    return torch.cat([images.rot90(k, (2, 3)) for k in range(4)]).contiguous(memory_format=torch.channels_last)
