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
def masked_l1(made: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the masked pixels of each image (arXiv 2111.09886, equation 2).

    made, images: (n, C, S, S); mask: (n, 1, S, S) bool. A scalar, the mean over the images.
    """
    return mean_within((made - images).abs().mean(1, keepdim=True), mask)


class SimMIM(Restoration):
    """A simple framework for masked image modeling (Xie et al. 2022, arXiv 2111.09886).

    A learned patch of pixels stands in for masked ones. In a transformer with patches of that size this is the paper's
    mask token, as the embedding of a patch is linear; and it serves hierarchical and convolutional backbones as well,
    which see all of the image. A transformer has one feature map, so its head is the paper's, one linear layer to pixels;
    the maps of all depths of other backbones are decoded, as SparK does (Tian et al. 2023, arXiv 2301.03580, section 3.2).

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image, each masked in its own way.
        patch: side of a masked square, in pixels; a multiple of a transformer's own patches.
        hidden: share of the squares that are masked.
    """

    def __init__(self, backbone: nn.Module, views: int = 1, patch: int = 8, hidden: float = 0.6) -> None:
        super().__init__(backbone, views, skips=True)
        need(0 < hidden < 1, f"ssl.hidden={hidden} must lie between 0 and 1: type ssl.hidden=0.6")
        self.patch, self.hidden = patch, hidden
        self.stand_in = nn.Parameter(0.02 * torch.randn(self.bands, patch, patch))

    def mask(self, batch: Batch) -> Tensor:
        """(V * B, 1, S, S) bool."""
        size = batch.views.shape[-1]
        grid = -(-size // self.patch)
        mask = masks.patches(self.draws(batch, "mask", grid**2), grid, self.patch, self.hidden)
        return mask[..., :size, :size]

    def masked(self, images: Tensor, mask: Tensor) -> Tensor:
        """Images (n, C, S, S) with the learned patch where mask (n, 1, S, S) is true."""
        size = images.shape[-1]
        grid = -(-size // self.patch)
        return torch.where(mask, self.stand_in.repeat(1, grid, grid)[:, :size, :size], images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, mask = batch.views.flatten(0, 1), self.mask(batch)
        made, features = self.restore(self.masked(images, mask))
        return {"loss": masked_l1(made, images, mask), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images, mask = batch.views.flatten(0, 1), self.mask(batch)
        made, _ = self.restore(self.masked(images, mask))
        return {"seen": images * ~mask, "filled in": torch.where(mask, made, images), "image": images}
