"""Colorization: all bands of an image from one, or a few, of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.methods.base import need
from rsssl.methods.restoration import Restoration


class Colorization(Restoration):
    """Bands predicted from a few drawn at random for each image, as in Tao et al. 2020 (after Zhang et al. 2016,
    arXiv 1603.08511). The target is the image's own bands, not the input's.

    What the network sees keeps its number of bands: the bands it is not given are replaced by the mean of those it is.

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image, each with bands of its own.
        bands: how many bands are given.
        skips, width: of the decoder (see Restoration).
    """

    def __init__(
        self, backbone: nn.Module, views: int = 1, bands: int = 1, skips: bool = True, width: int = 64
    ) -> None:
        super().__init__(backbone, views, skips, width)
        self.shown = bands
        need(
            0 < bands < self.bands,
            f"ssl.bands={bands} of {self.bands} leaves nothing to predict: type ssl.bands=1 with images of two bands or more",
        )

    def given(self, batch: Batch) -> Tensor:
        """(V * B, C) bool: the bands that each view shows."""
        draws = self.draws(batch, "bands", self.bands)
        return torch.zeros_like(draws, dtype=torch.bool).scatter_(1, draws.argsort(1)[:, : self.shown], True)

    def grey(self, images: Tensor, given: Tensor) -> Tensor:
        """What the network sees of images (n, C, S, S)."""
        kept = given[:, :, None, None]
        return torch.where(kept, images, (images * kept).sum(1, keepdim=True) / self.shown)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        made, features = self.restore(self.grey(images, self.given(batch)))
        return {"loss": F.mse_loss(made.float(), images), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        grey = self.grey(images, self.given(batch))
        return {"seen": grey, "coloured": self.restore(grey)[0], "image": images}
