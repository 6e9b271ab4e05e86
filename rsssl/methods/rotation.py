"""Rotation: by how many quarter turns was the image turned?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods.base import Method


class Rotation(Method):
    """Unsupervised representation learning by predicting image rotations (Gidaris et al. 2018, arXiv 1803.07728).

    Every view is shown in all four orientations, as published. Imagery from above has no up: what can be learned is where
    the shadows fall and which way the sensor scans, unless the augmentation turns images itself, and then nothing.

    Args:
        backbone: images to features.
        views: views of each image.
    """

    def __init__(self, backbone: nn.Module, views: int = 1) -> None:
        super().__init__(backbone, views)
        self.head = nn.Linear(self.num_features, 4)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        features = self.backbone(all_turns(images))  # (4 * V * B, D)
        logits = self.head(features).float()
        target = torch.arange(4, device=logits.device).repeat_interleave(len(images))
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target), "embedding": features, "turns_found": right}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A turned image, turned back by what the network believes, and the image as it was."""
        images = batch.views.flatten(0, 1)
        n = len(images)
        turned = all_turns(images).unflatten(0, (4, n))
        rows = torch.arange(n, device=images.device)
        shown = turned[rows % 4, rows]
        believed = self.head(self.backbone(shown)).argmax(1)
        back = all_turns(shown).unflatten(0, (4, n))[-believed % 4, rows]
        return {"turned": shown, "turned back": back, "image": images}


def all_turns(images: Tensor) -> Tensor:
    """(n, C, S, S) -> (4 * n, C, S, S): turned by 0, 1, 2 and 3 quarter turns."""
    return torch.cat([images.rot90(k, (2, 3)) for k in range(4)]).contiguous(memory_format=torch.channels_last)
