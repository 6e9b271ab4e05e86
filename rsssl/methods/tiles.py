"""Images cut into tiles, for the puzzles."""

from __future__ import annotations

import torch
from torch import Tensor

from rsssl.methods.base import need


def cut(images: Tensor, grid: int, share: float, draws: Tensor, multiple: int = 1) -> Tensor:
    """Images (n, C, S, S) -> tiles (n * G, C, t, t), G = grid * grid, row by row; image i's at i * G.

    Each is a square of `share` of its cell's side, at a random place in the cell, so that no edge goes on in the next
    tile (Noroozi and Favaro 2016, arXiv 1603.09246, section 4.2: 64 of 75 pixels). Its side is a multiple of `multiple`
    pixels, the patches of a transformer. draws: (n, 2 * G) in [0, 1).

    Raises:
        UserError: when a cell has no room for one.
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
    at = torch.arange(side, device=images.device)
    rows = (shift[:, 0] + corner[:, None]).flatten(1)[..., None] + at  # (n, G, t)
    columns = (shift[:, 1] + corner[None, :]).flatten(1)[..., None] + at
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channels_last = images.permute(0, 2, 3, 1)
    return channels_last[image, rows[..., :, None], columns[..., None, :]].flatten(0, 1).permute(0, 3, 1, 2)


def normalise(tiles: Tensor) -> Tensor:
    """Each tile (n, C, t, t) by the mean and the standard deviation of its own pixels, all bands together.

    A tile's brightness and contrast would give its neighbours away; the differences of its bands stay.
    """
    flat = tiles.flatten(1)
    std, mean = torch.std_mean(flat, 1, keepdim=True)
    return ((flat - mean) / (std + 1e-3)).view_as(tiles)


def join(tiles: Tensor, grid: int) -> Tensor:
    """Tiles (n * G, C, t, t) -> images (n, C, grid * t, grid * t): for people to look at."""
    _, bands, side, _ = tiles.shape
    return (
        tiles.reshape(-1, grid, grid, bands, side, side)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(-1, bands, grid * side, grid * side)
    )
