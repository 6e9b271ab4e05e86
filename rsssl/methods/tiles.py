"""Images cut into tiles, for the methods that make puzzles of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method, need
from rsssl.models.maps import patch_side


class Puzzle(Method):
    """Base of the methods that cut each view into a grid of tiles.

    Args:
        backbone: images to features.
        views: views of each image.
        grid: tiles along each side of a view.
        share: side of a tile, as a share of its cell's.
        normalise: whether each tile is normalised by its own mean and spread.
    """

    whole_images = False

    def __init__(self, backbone: nn.Module, views: int, grid: int, share: float, normalise: bool) -> None:
        super().__init__(backbone, views)
        need(0 < share <= 1, f"ssl.share={share} must lie in (0, 1]: type ssl.share=0.85")
        self.grid, self.share, self.normalise, self.multiple = grid, share, normalise, patch_side(backbone)

    def cut(self, batch: Batch) -> Tensor:
        """The tiles of all views, (V * B * G, C, t, t)."""
        draws = self.draws(batch, "shift", 2 * self.grid**2)
        tiles = cut(batch.views.flatten(0, 1), self.grid, self.share, draws, self.multiple)
        return normalise(tiles) if self.normalise else tiles


def cut(images: Tensor, grid: int, share: float, draws: Tensor, multiple: int = 1) -> Tensor:
    """One tile of each cell of a grid.

    A tile is a square at a random place in its cell, and smaller than the cell, so that no edge continues in the next
    tile (Noroozi and Favaro 2016, arXiv 1603.09246, section 4.2: 64 of 75 pixels).

    Args:
        images: (n, C, S, S).
        grid: cells along each side; G = grid * grid.
        share: side of a tile, as a share of its cell's.
        draws: (n, 2 * G) random numbers in [0, 1).
        multiple: a tile's side is a multiple of that many pixels, the patches of a transformer.

    Returns:
        Tiles (n * G, C, t, t), row by row; those of image i begin at i * G.

    Raises:
        UserError: when a tile does not fit into its cell.
    """
    n, _, size, _ = images.shape
    cell = size // grid
    side = max(1, round(share * cell) // multiple) * multiple
    need(
        side <= cell,
        f"{grid} x {grid} tiles of {size} pixels are smaller than this transformer's patches of {multiple}: "
        f"type pretrain.image_size={grid * 2 * multiple} pretrain.progressive=[]",
    )
    shift = (draws * (cell - side + 1)).long().view(n, 2, grid, grid)
    corner = torch.arange(grid, device=images.device) * cell
    pixel = torch.arange(side, device=images.device)
    rows = (shift[:, 0] + corner[:, None]).flatten(1)[..., None] + pixel  # (n, G, t)
    columns = (shift[:, 1] + corner[None, :]).flatten(1)[..., None] + pixel
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channels_last = images.permute(0, 2, 3, 1)
    return channels_last[image, rows[..., :, None], columns[..., None, :]].flatten(0, 1).permute(0, 3, 1, 2)


def normalise(tiles: Tensor) -> Tensor:
    """Each tile (n, C, t, t) by the mean and the standard deviation of its own pixels, all bands together.

    Otherwise a tile's brightness and contrast would tell which tiles are its neighbours; the differences between its
    bands stay.
    """
    flat = tiles.flatten(1)
    std, mean = torch.std_mean(flat, 1, keepdim=True)
    return ((flat - mean) / (std + 1e-3)).view_as(tiles)


def join(tiles: Tensor, grid: int) -> Tensor:
    """Tiles put together to images, for people to look at.

    Args:
        tiles: (n * grid * grid, C, t, t), row by row.
        grid: tiles along each side.

    Returns:
        (n, C, grid * t, grid * t).
    """
    rows = tiles.unflatten(0, (-1, grid, grid)).permute(0, 3, 1, 4, 2, 5)  # (n, C, grid, t, grid, t)
    return rows.flatten(4, 5).flatten(2, 3)
