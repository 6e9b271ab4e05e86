"""Which parts of an image are hidden, for the methods that predict them."""

from __future__ import annotations

import torch
from torch import Tensor


def central(n: int, size: int, share: float, device: torch.device) -> Tensor:
    """A square in the middle of each image.

    Args:
        n: number of images.
        size: side of an image, in pixels.
        share: side of the square, as a share of the image's.
        device: where the mask is made.

    Returns:
        (n, 1, size, size) bool.
    """
    pixel = torch.arange(size, device=device)
    side = round(share * size)
    low = (size - side) // 2
    inside = (pixel >= low) & (pixel < low + side)
    return (inside[:, None] & inside[None, :]).expand(n, 1, size, size)


def blocks(draws: Tensor, size: int, low: float, high: float) -> Tensor:
    """Rectangles at random places, which may overlap.

    Args:
        draws: (n, 4 * number of rectangles) random numbers in [0, 1).
        size: side of an image, in pixels.
        low: least length of a rectangle's side, as a share of the image's.
        high: most length of a rectangle's side, as a share of the image's.

    Returns:
        (n, 1, size, size) bool.
    """
    height, width, top, left = draws.unflatten(1, (4, -1)).unbind(1)  # each (n, k)
    pixel = (torch.arange(size, device=draws.device) + 0.5) / size
    height, width = low + (high - low) * height, low + (high - low) * width
    top, left = top * (1 - height), left * (1 - width)
    rows = (pixel >= top[..., None]) & (pixel < (top + height)[..., None])  # (n, k, size)
    columns = (pixel >= left[..., None]) & (pixel < (left + width)[..., None])
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)


def random_patches(draws: Tensor, hidden: float) -> tuple[Tensor, Tensor]:
    """Which patches of an image are shown and which are hidden.

    Args:
        draws: (n, N) random numbers in [0, 1), one for each patch.
        hidden: share of the patches to hide; at least one is hidden and one shown.

    Returns:
        The numbers of the shown patches in random order, (n, k) int64; whether each patch is hidden, (n, N) bool.
    """
    count = max(1, min(draws.shape[1] - 1, round((1 - hidden) * draws.shape[1])))
    shown = draws.argsort(1)[:, :count]
    return shown, torch.ones_like(draws, dtype=torch.bool).scatter_(1, shown, False)


def patches(draws: Tensor, grid: int, patch: int, hidden: float) -> Tensor:
    """That share of the squares of a grid, exactly, at random.

    Args:
        draws: (n, grid * grid) random numbers in [0, 1).
        grid: squares along a side of the image.
        patch: side of a square, in pixels.
        hidden: share of the squares to hide.

    Returns:
        (n, 1, grid * patch, grid * patch) bool.
    """
    mask = random_patches(draws, hidden)[1].view(-1, 1, grid, grid)
    return mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
