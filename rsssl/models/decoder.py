"""From feature maps back to pixels, for any number of bands."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.models.maps import Map


class Decoder(nn.Module):
    """Maps (B, D_i, h_i, w_i), fine to coarse -> images (B, bands, S, S).

    From the coarsest map upwards, each step doubles the size, joins the next finer map (the skip connections of U-Net,
    Ronneberger et al. 2015, arXiv 1505.04597) and convolves; the finest map becomes pixels by one linear layer whose
    outputs are the pixels that it covers (Shi et al. 2016, arXiv 1609.05158). For one map there is only that layer.

    Args:
        maps: the maps to decode (see models.maps).
        bands: bands of the images.
        width: channels between the maps.
    """

    def __init__(self, maps: Sequence[Map], bands: int, width: int) -> None:
        super().__init__()
        incoming = maps[-1].channels
        self.steps = nn.ModuleList()
        for skip in reversed(maps[:-1]):
            convolution = nn.Conv2d(incoming + skip.channels, width, 3, padding=1, bias=False)
            self.steps.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            incoming = width
        self.stride = maps[0].stride
        self.pixels = nn.Sequential(nn.Conv2d(incoming, bands * self.stride**2, 1), nn.PixelShuffle(self.stride))

    def forward(self, maps: Sequence[Tensor], size: int) -> Tensor:
        """Images (B, bands, size, size).

        If the stride does not divide the size, a larger image is made and cut.

        Args:
            maps: tensors of the maps that the decoder was made for, fine to coarse.
            size: S, in pixels.
        """
        x = maps[-1]
        for step, skip in zip(self.steps, reversed(maps[:-1]), strict=True):
            x = step(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1))
        grid = -(-size // self.stride)
        if x.shape[-1] != grid:  # layers without padding lose the edge: stretch the map over the whole image again
            x = F.interpolate(x, size=(grid, grid), mode="bilinear", align_corners=False)
        return self.pixels(x)[..., :size, :size]
