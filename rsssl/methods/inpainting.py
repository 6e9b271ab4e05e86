"""Inpainting: fill in a hole of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods import masks
from rsssl.methods.base import need
from rsssl.methods.losses import full_precision
from rsssl.methods.restoration import Restoration, mean_within

MASKS = ("central", "blocks")


@full_precision
def reconstruction(made: Tensor, image: Tensor, hole: Tensor, context: float = 0.01) -> Tensor:
    """Mean squared error in each image's hole times (1 - context) plus outside it times context.

    made, image: (n, C, S, S); hole: (n, 1, S, S) bool. A scalar, the mean over the images.
    """
    error = (made - image).square().mean(1, keepdim=True)
    return (1 - context) * mean_within(error, hole) + context * mean_within(error, ~hole)


class Inpainting(Restoration):
    """Context encoders (Pathak et al. 2016, arXiv 1604.07379) as in Tao et al. 2020: no adversary.

    The hole is filled with the bands' means, 0 in standardised images.

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image, each with a hole of its own.
        mask: "central", a square of half the image's side (the paper's), or "blocks", several rectangles at random.
        blocks: how many. sides: of each, [least, most], as shares of the image's.
        context: weight of the error outside the hole; inside it is 1 - context.
        skips, width: of the decoder (see Restoration); the paper has skips.
    """

    def __init__(
        self,
        backbone: nn.Module,
        views: int = 1,
        mask: str = "blocks",
        blocks: int = 4,
        sides: tuple[float, float] = (0.2, 0.4),
        context: float = 0.01,
        skips: bool = True,
        width: int = 64,
    ) -> None:
        super().__init__(backbone, views, skips, width)
        need(mask in MASKS, f"ssl.mask={mask} is unknown: type ssl.mask=central or ssl.mask=blocks")
        need(0 <= context < 1, f"ssl.context={context} must lie in [0, 1): type ssl.context=0.01")
        self.mask, self.blocks, self.sides, self.context = mask, blocks, tuple(sides), context

    def hole(self, batch: Batch) -> Tensor:
        """(V * B, 1, S, S) bool."""
        size, n = batch.views.shape[-1], len(batch.views) * len(batch.ids)
        if self.mask == "central":
            return masks.central(n, size, 0.5, batch.views.device)
        return masks.blocks(self.draws(batch, "hole", 4 * self.blocks), size, *self.sides)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, hole = batch.views.flatten(0, 1), self.hole(batch)
        made, features = self.restore(images * ~hole)
        return {"loss": reconstruction(made, images, hole, self.context), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images, hole = batch.views.flatten(0, 1), self.hole(batch)
        made, _ = self.restore(images * ~hole)
        return {"seen": images * ~hole, "filled in": torch.where(hole, made, images), "image": images}
