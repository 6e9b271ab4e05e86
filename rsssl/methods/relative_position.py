"""Relative position: where, of eight places around the middle tile, does another tile lie?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods import tiles
from rsssl.methods.base import Method, need
from rsssl.models.heads import projector
from rsssl.models.maps import patch_side

GRID, MIDDLE, AROUND = 3, 4, (0, 1, 2, 3, 5, 6, 7, 8)


class RelativePosition(Method):
    """Unsupervised visual representation learning by context prediction (Doersch et al. 2015, arXiv 1505.05192).

    All eight neighbours of a 3x3 grid are asked for: nine tiles through the backbone make eight pairs.

    Args:
        backbone: images to features.
        views: views of each image.
        share: of its cell's side that a tile takes.
        normalise: each tile by its own mean and spread.
        hidden: width of the head.
    """

    whole_images = False

    def __init__(
        self, backbone: nn.Module, views: int = 1, share: float = 0.85, normalise: bool = True, hidden: int = 512
    ) -> None:
        super().__init__(backbone, views)
        need(0 < share <= 1, f"ssl.share={share} must lie in (0, 1]: type ssl.share=0.85")
        self.share, self.normalise, self.multiple = share, normalise, patch_side(backbone)
        self.head = projector(2 * self.num_features, hidden, len(AROUND), layers=3)

    def cut(self, batch: Batch) -> Tensor:
        """Tiles (V * B * 9, C, t, t)."""
        made = tiles.cut(
            batch.views.flatten(0, 1), GRID, self.share, self.draws(batch, "shift", 2 * GRID**2), self.multiple
        )
        return tiles.normalise(made) if self.normalise else made

    def places(self, features: Tensor) -> Tensor:
        """Logits (n, 8, 8) of the places of the eight outer tiles, from features (n * 9, D) of all tiles."""
        by_image = features.unflatten(0, (-1, GRID**2))
        outer = by_image[:, AROUND]  # (n, 8, D)
        middle = by_image[:, MIDDLE, None].expand_as(outer)
        return self.head(torch.cat([middle, outer], 2).flatten(0, 1)).unflatten(0, (-1, len(AROUND)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(self.cut(batch))
        logits = self.places(features).flatten(0, 1).float()  # (n * 8, 8)
        target = torch.arange(len(AROUND), device=logits.device).repeat(len(logits) // len(AROUND))
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target), "embedding": features, "places_found": right}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The image's tiles put where the network believes each to be (of several at one place the last), and as they were."""
        cut = self.cut(batch)
        by_image = cut.unflatten(0, (-1, GRID**2))
        believed = torch.tensor(AROUND, device=cut.device)[self.places(self.backbone(cut)).argmax(2)]  # (n, 8)
        put = torch.zeros_like(by_image)
        put[:, MIDDLE] = by_image[:, MIDDLE]
        for i, tile in enumerate(AROUND):
            put[torch.arange(len(put), device=cut.device), believed[:, i]] = by_image[:, tile]
        return {title: tiles.join(t.flatten(0, 1), GRID) for title, t in (("placed", put), ("image", by_image))}
