"""Jigsaw: in which order are the tiles of an image?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods import tiles
from rsssl.methods.base import Method, need
from rsssl.methods.permutations import puzzle_orders
from rsssl.models.heads import projector
from rsssl.models.maps import patch_side


class Jigsaw(Method):
    """Solving jigsaw puzzles (Noroozi and Favaro 2016, arXiv 1603.09246), as in Tao et al. 2020.

    Each tile goes through the backbone alone; a head sees all of an image's tiles, in a random order, and says which of
    the known orders it is. As only the head sees the order, several of them are asked for each image at no cost.

    Args:
        backbone: images to features.
        views: views of each image.
        grid: 2 for 2x2 tiles and their 24 orders, 3 for 3x3 tiles and 1000 orders.
        share: of its cell's side that a tile takes.
        orders: puzzles made of the same tiles.
        normalise: each tile by its own mean and spread.
        hidden: width of the head's layers.
    """

    whole_images = False

    def __init__(
        self,
        backbone: nn.Module,
        views: int = 1,
        grid: int = 3,
        share: float = 0.85,
        orders: int = 4,
        normalise: bool = True,
        hidden: int = 512,
    ) -> None:
        super().__init__(backbone, views)
        need(grid in (2, 3), f"ssl.grid={grid} has no orders: type ssl=jigsaw2x2 or ssl=jigsaw3x3")
        need(0 < share <= 1, f"ssl.share={share} must lie in (0, 1]: type ssl.share=0.85")
        self.grid, self.share, self.orders, self.normalise = grid, share, orders, normalise
        self.multiple = patch_side(backbone)
        self.register_buffer("known", torch.from_numpy(puzzle_orders(grid)), persistent=False)  # (P, G)
        self.known: Tensor
        self.each = nn.Linear(self.num_features, 128)
        self.head = projector(128 * grid * grid, hidden, len(self.known))

    def cut(self, batch: Batch) -> Tensor:
        """Tiles (V * B * G, C, t, t)."""
        made = tiles.cut(
            batch.views.flatten(0, 1),
            self.grid,
            self.share,
            self.draws(batch, "shift", 2 * self.grid**2),
            self.multiple,
        )
        return tiles.normalise(made) if self.normalise else made

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(self.cut(batch))  # (V * B * G, D)
        target = (self.draws(batch, "order", self.orders) * len(self.known)).long().T.flatten()  # (orders * V * B,)
        logits = self.solve(features, target)
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": F.cross_entropy(logits.float(), target), "embedding": features, "puzzles_solved": right}

    def solve(self, features: Tensor, order: Tensor) -> Tensor:
        """Logits (k * n, P) for n images' tiles (n * G, D), shown in order (k * n,), k puzzles of each image."""
        each = F.relu(self.each(features)).unflatten(0, (-1, self.grid**2))  # (n, G, 128)
        each = each.repeat(len(order) // len(each), 1, 1)
        shown = each.gather(1, self.known[order][..., None].expand_as(each))
        return self.head(shown.flatten(1))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The puzzle, the network's solution, and the image's tiles as they were."""
        cut = self.cut(batch)
        n = len(cut) // self.grid**2
        order = (self.draws(batch, "order", 1)[:, 0] * len(self.known)).long()
        by_image = cut.unflatten(0, (n, -1))
        rows = torch.arange(n, device=cut.device)[:, None]
        shown = by_image[rows, self.known[order]]
        believed = self.solve(self.backbone(cut), order).argmax(1)
        solved = shown[rows, self.known[believed].argsort(1)]
        columns = {"puzzle": shown, "solved": solved, "image": by_image}
        return {title: tiles.join(t.flatten(0, 1), self.grid) for title, t in columns.items()}
