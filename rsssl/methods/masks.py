"""Which parts of an image are hidden, for the methods that predict them."""

from __future__ import annotations

import torch
from torch import Tensor


def central(n: int, size: int, share: float, device: torch.device) -> Tensor:
    """(n, 1, size, size) bool: a square in the middle whose side is `share` of the image's."""
    at = torch.arange(size, device=device)
    side = round(share * size)
    low = (size - side) // 2
    inside = (at >= low) & (at < low + side)
    return (inside[:, None] & inside[None, :]).expand(n, 1, size, size)


def blocks(draws: Tensor, size: int, low: float, high: float) -> Tensor:
    """(n, 1, size, size) bool: rectangles at random places, which may overlap.

    draws: (n, 4 * number of rectangles) in [0, 1). low, high: of a rectangle's sides, as shares of the image's.
    """
    height, width, top, left = draws.unflatten(1, (4, -1)).unbind(1)  # each (n, k)
    at = (torch.arange(size, device=draws.device) + 0.5) / size
    height, width = low + (high - low) * height, low + (high - low) * width
    top, left = top * (1 - height), left * (1 - width)
    rows = (at >= top[..., None]) & (at < (top + height)[..., None])  # (n, k, size)
    columns = (at >= left[..., None]) & (at < (left + width)[..., None])
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)


def random_order(draws: Tensor, hidden: float) -> tuple[Tensor, int]:
    """A random order of patches (n, N) from draws (n, N) in [0, 1), and how many of its first are kept: the rest is hidden."""
    keep = max(1, min(draws.shape[1] - 1, round((1 - hidden) * draws.shape[1])))
    return draws.argsort(1), keep


def patches(draws: Tensor, grid: int, patch: int, hidden: float) -> Tensor:
    """(n, 1, grid * patch, grid * patch) bool: that share of the squares of a grid, exactly, at random.

    draws: (n, grid * grid) in [0, 1).
    """
    order, keep = random_order(draws, hidden)
    mask = torch.ones_like(draws, dtype=torch.bool).scatter_(1, order[:, :keep], False).view(-1, 1, grid, grid)
    return mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
