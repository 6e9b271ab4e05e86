"""SimMIM: predict the pixels of masked patches, with any backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods import masks
from rsssl.methods.base import need
from rsssl.methods.losses import full_precision
from rsssl.methods.restoration import Restoration, mean_within


@full_precision
def masked_l1(restored: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the masked pixels of each image (arXiv 2111.09886, equation 2).

    Args:
        restored: (n, C, S, S) what the network makes of the images.
        images: (n, C, S, S).
        mask: (n, 1, S, S) bool.

    Returns:
        A scalar, the mean over the images.
    """
    return mean_within((restored - images).abs().mean(1, keepdim=True), mask)


class SimMIM(Restoration):
    """A simple framework for masked image modeling (Xie et al. 2022, arXiv 2111.09886).

    A learned patch of pixels takes the place of masked ones. In a transformer with patches of that size this is the
    paper's mask token, as the embedding of a patch is linear; it also serves hierarchical and convolutional backbones,
    which see all of the image. A transformer has one feature map, so its head is the paper's, one linear layer to
    pixels; the maps of all depths of other backbones are decoded, as SparK does (Tian et al. 2023, arXiv 2301.03580,
    section 3.2).

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image; other patches are masked in each of them.
        patch: side of a masked square, in pixels; a multiple of a transformer's own patches.
        hidden: share of the squares that are masked.
    """

    def __init__(self, backbone: nn.Module, views: int, patch: int, hidden: float) -> None:
        super().__init__(backbone, views, skips=True, width=64)
        need(0 < hidden < 1, f"ssl.hidden={hidden} must lie between 0 and 1: type ssl.hidden=0.6")
        self.patch, self.hidden = patch, hidden
        self.stand_in = nn.Parameter(0.02 * torch.randn(self.bands, patch, patch))

    def hide(self, batch: Batch) -> Tensor:
        """The masks, (V * B, 1, S, S) bool."""
        size = batch.views.shape[-1]
        grid = -(-size // self.patch)
        mask = masks.patches(self.draws(batch, "mask", grid**2), grid, self.patch, self.hidden)
        return mask[..., :size, :size]

    def seen(self, images: Tensor, hidden: Tensor) -> Tensor:
        size = images.shape[-1]
        grid = -(-size // self.patch)
        return torch.where(hidden, self.stand_in.repeat(1, grid, grid)[:, :size, :size], images)

    def error(self, restored: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
        return masked_l1(restored, images, hidden)
