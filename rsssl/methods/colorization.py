"""Colorization: all bands of an image from one, or a few, of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods.base import need
from rsssl.methods.restoration import Restoration


class Colorization(Restoration):
    """All bands predicted from a few that are drawn at random for each image.

    As in Tao et al. 2020 (after Zhang et al. 2016, arXiv 1603.08511), but the target is the image's own bands, not the
    input's. The network's input keeps its number of bands: the mean of the given bands takes the place of the others.

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image; other bands are given of each of them.
        bands: how many bands are given.
        skips: decode the maps of all depths, not only the last one.
        width: channels of the decoder between the maps.
    """

    def __init__(self, backbone: nn.Module, views: int, bands: int, skips: bool, width: int) -> None:
        super().__init__(backbone, views, skips, width)
        self.shown = bands
        need(
            0 < bands < self.bands,
            f"ssl.bands={bands} of {self.bands} leaves nothing to predict: "
            "type ssl.bands=1 with images of two bands or more",
        )

    def hide(self, batch: Batch) -> Tensor:
        """(V * B, C, 1, 1) bool: the bands of each view that are not given."""
        draws = self.draws(batch, "bands", self.bands)
        hidden = torch.ones_like(draws, dtype=torch.bool).scatter_(1, draws.argsort(1)[:, : self.shown], False)
        return hidden[:, :, None, None]

    def seen(self, images: Tensor, hidden: Tensor) -> Tensor:
        mean = (images * ~hidden).sum(1, keepdim=True) / self.shown
        return torch.where(hidden, mean, images)

    def error(self, restored: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
        return F.mse_loss(restored.to(images.dtype), images)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The network's input, what it makes of it, and the image."""
        images = batch.views.flatten(0, 1)
        seen = self.seen(images, self.hide(batch))
        return {"seen": seen, "coloured": self.restore(seen)[0], "image": images}
