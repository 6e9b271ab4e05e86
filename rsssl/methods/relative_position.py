"""Relative position: where, of eight places around the middle tile, does another tile lie?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.losses import classification
from rsssl.methods.tiles import Puzzle, join
from rsssl.models.heads import projector

MIDDLE, AROUND = 4, (0, 1, 2, 3, 5, 6, 7, 8)


class RelativePosition(Puzzle):
    """Unsupervised visual representation learning by context prediction (Doersch et al. 2015, arXiv 1505.05192).

    All eight neighbours in a 3x3 grid are asked for: nine tiles through the backbone make eight pairs.

    Args:
        backbone: images to features.
        views: views of each image.
        share: side of a tile, as a share of its cell's.
        normalise: whether each tile is normalised by its own mean and spread.
        hidden: width of the head's hidden layers.
    """

    def __init__(self, backbone: nn.Module, views: int, share: float, normalise: bool, hidden: int) -> None:
        super().__init__(backbone, views, 3, share, normalise)
        self.head = projector(2 * self.num_features, hidden, len(AROUND), layers=3)

    def places(self, features: Tensor) -> Tensor:
        """Logits (n, 8, 8) of the places of the eight outer tiles, from features (n * 9, D) of all tiles."""
        by_image = features.unflatten(0, (-1, 9))
        outer = by_image[:, AROUND]  # (n, 8, D)
        middle = by_image[:, MIDDLE, None].expand_as(outer)
        return self.head(torch.cat([middle, outer], 2).flatten(0, 1)).unflatten(0, (-1, 8))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(self.cut(batch))
        logits = self.places(features).flatten(0, 1)  # (n * 8, 8)
        loss, solved = classification(logits, torch.arange(8, device=logits.device).repeat(len(logits) // 8))
        return {"loss": loss, "embedding": features, "places_found": solved}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The tiles where the network believes each to be (if several are at one place, the last), and as they were."""
        tiles = self.cut(batch)
        by_image = tiles.unflatten(0, (-1, 9))
        answer = torch.tensor(AROUND, device=tiles.device)[self.places(self.backbone(tiles)).argmax(2)]  # (n, 8)
        placed = torch.zeros_like(by_image)
        placed[:, MIDDLE] = by_image[:, MIDDLE]
        for i, tile in enumerate(AROUND):
            placed[torch.arange(len(placed), device=tiles.device), answer[:, i]] = by_image[:, tile]
        return {title: join(t.flatten(0, 1), self.grid) for title, t in (("placed", placed), ("image", by_image))}
