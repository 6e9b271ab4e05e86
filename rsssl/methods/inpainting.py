"""Inpainting: fill in a hole of the image."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods import masks
from rsssl.methods.base import need
from rsssl.methods.losses import full_precision
from rsssl.methods.restoration import Restoration, mean_within


@full_precision
def reconstruction(restored: Tensor, images: Tensor, hole: Tensor, context: float) -> Tensor:
    """Mean squared error inside each image's hole times (1 - context), plus that outside times context.

    Args:
        restored: (n, C, S, S) what the network makes of the images.
        images: (n, C, S, S).
        hole: (n, 1, S, S) bool.
        context: weight of the error outside the hole.

    Returns:
        A scalar, the mean over the images.
    """
    error = (restored - images).square().mean(1, keepdim=True)
    return (1 - context) * mean_within(error, hole) + context * mean_within(error, ~hole)


class Inpainting(Restoration):
    """Context encoders (Pathak et al. 2016, arXiv 1604.07379) as in Tao et al. 2020: without an adversary.

    Args:
        backbone: images to features; its feature maps are decoded.
        views: views of each image, each with its own hole.
        mask: "central", a square of half the image's side (the paper's), or "blocks", several rectangles at random.
        blocks: number of rectangles.
        sides: [least, most] length of a rectangle's sides, as shares of the image's side.
        context: weight of the error outside the hole; inside it is 1 - context.
        skips: decode the maps of all depths, not only the last one; the paper does.
        width: channels of the decoder between the maps.
    """

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        mask: str,
        blocks: int,
        sides: tuple[float, float],
        context: float,
        skips: bool,
        width: int,
    ) -> None:
        super().__init__(backbone, views, skips, width)
        need(mask in ("central", "blocks"), f"ssl.mask={mask} is unknown: type ssl.mask=central or ssl.mask=blocks")
        need(0 <= context < 1, f"ssl.context={context} must lie in [0, 1): type ssl.context=0.01")
        self.mask, self.blocks, self.sides, self.context = mask, blocks, tuple(sides), context

    def hide(self, batch: Batch) -> Tensor:
        """The holes, (V * B, 1, S, S) bool."""
        size, n = batch.views.shape[-1], len(batch.views) * len(batch.ids)
        if self.mask == "central":
            return masks.central(n, size, 0.5, batch.views.device)
        return masks.blocks(self.draws(batch, "hole", 4 * self.blocks), size, *self.sides)

    def error(self, restored: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
        return reconstruction(restored, images, hidden, self.context)
