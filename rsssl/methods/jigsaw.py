"""Jigsaw: in which order are the tiles of an image?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods.base import need
from rsssl.methods.losses import classification
from rsssl.methods.permutations import puzzle_orders
from rsssl.methods.tiles import Puzzle, join
from rsssl.models.heads import projector


class Jigsaw(Puzzle):
    """Solving jigsaw puzzles (Noroozi and Favaro 2016, arXiv 1603.09246), as in Tao et al. 2020.

    Each tile goes through the backbone alone; a head sees all of an image's tiles, in a random order, and tells which
    of the known orders it is. As only the head sees the order, several orders of each image cost next to nothing.

    Args:
        backbone: images to features.
        views: views of each image.
        grid: 2 for 2x2 tiles and their 24 orders, 3 for 3x3 tiles and 1000 orders.
        share: side of a tile, as a share of its cell's.
        orders: puzzles that are made of the same tiles.
        normalise: whether each tile is normalised by its own mean and spread.
        hidden: width of the head's hidden layer.
    """

    known: Tensor

    def __init__(
        self, backbone: nn.Module, views: int, grid: int, share: float, orders: int, normalise: bool, hidden: int
    ) -> None:
        need(grid in (2, 3), f"ssl.grid={grid} has no orders: type ssl=jigsaw2x2 or ssl=jigsaw3x3")
        super().__init__(backbone, views, grid, share, normalise)
        self.orders = orders
        self.register_buffer("known", torch.from_numpy(puzzle_orders(grid)), persistent=False)  # (P, G)
        self.each = nn.Linear(self.num_features, 128)
        self.head = projector(128 * grid * grid, hidden, len(self.known))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(self.cut(batch))  # (V * B * G, D)
        target = (self.draws(batch, "order", self.orders) * len(self.known)).long().T.flatten()  # (orders * V * B,)
        loss, solved = classification(self.solve(features, target), target)
        return {"loss": loss, "embedding": features, "puzzles_solved": solved}

    def solve(self, features: Tensor, order: Tensor) -> Tensor:
        """The head's belief in each known order.

        Args:
            features: (n * G, D) of the tiles of n images.
            order: (k * n,) number of the order in which the tiles are shown, k puzzles of each image.

        Returns:
            Logits (k * n, P).
        """
        each = F.relu(self.each(features)).unflatten(0, (-1, self.grid**2))  # (n, G, 128)
        each = each.repeat(len(order) // len(each), 1, 1)
        shown = each.gather(1, self.known[order][..., None].expand_as(each))
        return self.head(shown.flatten(1))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The puzzle, the network's solution, and the image's tiles as they were."""
        tiles = self.cut(batch)
        by_image = tiles.unflatten(0, (-1, self.grid**2))
        order = (self.draws(batch, "order", 1)[:, 0] * len(self.known)).long()
        rows = torch.arange(len(by_image), device=tiles.device)[:, None]
        puzzle = by_image[rows, self.known[order]]
        answer = self.solve(self.backbone(tiles), order).argmax(1)
        solved = puzzle[rows, self.known[answer].argsort(1)]
        columns = {"puzzle": puzzle, "solved": solved, "image": by_image}
        return {title: join(t.flatten(0, 1), self.grid) for title, t in columns.items()}
