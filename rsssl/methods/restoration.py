"""What the methods share that hide a part of an image and restore it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method, need
from rsssl.models.decoder import Decoder
from rsssl.models.maps import backbone_maps, feature_maps, in_chans


class Restoration(Method):
    """A backbone whose feature maps are decoded to images; a subclass defines `hide` and `error`.

    Args:
        backbone: images to features.
        views: views of each image; another part is hidden in each of them.
        skips: decode the maps of all depths; otherwise only the last map, through which all of the image has to pass.
        width: channels of the decoder between the maps.

    Raises:
        UserError: when the backbone has layers behind its last feature map, which would not be trained.
    """

    whole_images = False

    def __init__(self, backbone: nn.Module, views: int, skips: bool, width: int) -> None:
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

    def hide(self, batch: Batch) -> Tensor:
        """What is hidden of each view: bool, of a shape that broadcasts with (V * B, C, S, S)."""
        raise NotImplementedError(f"{type(self).__name__} must define hide(batch)")

    def seen(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The network's input: here 0, the mean of standardised images, takes the place of what is hidden.

        Args:
            images: (n, C, S, S).
            hidden: the result of `hide`.

        Returns:
            (n, C, S, S).
        """
        return images * ~hidden

    def error(self, restored: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
        """The loss.

        Args:
            restored: (n, C, S, S) what the network makes of the images.
            images: (n, C, S, S).
            hidden: the result of `hide`.

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must define error(restored, images, hidden)")

    def restore(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, S, S) as the network completes them, and the features (n, D) of what it saw."""
        maps = feature_maps(self.backbone, seen)
        return self.decoder(maps[-self.depths :], seen.shape[-1]), maps[-1].mean((2, 3))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, hidden = batch.views.flatten(0, 1), self.hide(batch)
        restored, features = self.restore(self.seen(images, hidden))
        return {"loss": self.error(restored, images, hidden), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The image without its hidden part, with that part as the network restores it, and as it is."""
        images, hidden = batch.views.flatten(0, 1), self.hide(batch)
        restored, _ = self.restore(self.seen(images, hidden))
        return {"seen": images * ~hidden, "filled in": torch.where(hidden, restored, images), "image": images}


def mean_within(error: Tensor, part: Tensor) -> Tensor:
    """The mean error over a part of each image, averaged over the images.

    Args:
        error: (n, 1, S, S).
        part: (n, 1, S, S) bool; an empty part has the mean 0.

    Returns:
        A scalar.
    """
    part = part.to(error.dtype)
    return ((error * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp_min(1)).mean()
