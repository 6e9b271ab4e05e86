"""What the methods share that restore an image from what is left of it."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.methods.base import Method, need
from rsssl.models.decoder import Decoder
from rsssl.models.maps import backbone_maps, feature_maps, in_chans


class Restoration(Method):
    """A backbone whose feature maps are decoded to images.

    Args:
        backbone: images to features.
        views: views of each image, each restored from a remainder of its own.
        skips: decode the maps of all depths; else the last map alone, through which all of the image then has to pass.
        width: channels of the decoder between the maps.
    """

    whole_images = False

    def __init__(self, backbone: nn.Module, views: int, skips: bool, width: int = 64) -> None:
        super().__init__(backbone, views)
        maps = backbone_maps(backbone)
        pooled = "forward" in vars(backbone)  # see models.maps.pool_depths
        need(
            pooled or maps[-1].channels == self.num_features,
            f"{type(backbone).__name__} ends in layers behind its feature maps, which this method would not train: "
            "type backbone.depths=2 (features pooled from the maps), or backbone=resnet18",
        )
        self.bands, self.depths = in_chans(backbone), len(maps) if skips else 1
        self.decoder = Decoder(maps[-self.depths :], self.bands, width)

    def restore(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, S, S) as the network completes them, and the features (n, D) of what it saw."""
        maps = feature_maps(self.backbone, seen)
        return self.decoder(maps[-self.depths :], seen.shape[-1]), maps[-1].mean((2, 3))


def mean_within(error: Tensor, part: Tensor) -> Tensor:
    """The mean of error (n, 1, S, S) over each image's part (n, 1, S, S) bool, averaged over the images; 0 for an empty part."""
    part = part.to(error.dtype)
    return ((error * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp_min(1)).mean()
