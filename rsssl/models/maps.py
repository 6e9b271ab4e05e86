"""Feature maps of a backbone at all its depths, and features pooled from several of them."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsssl.errors import UserError

PROBE = 128  # pixels: large enough that the sizes of all maps differ


class Map(NamedTuple):
    """One of a backbone's maps.

    Args:
        layer: which of the backbone's maps it is, from the first layer on.
        channels: its channels.
        stride: side of the square of pixels that one value stands for.
    """

    layer: int
    channels: int
    stride: int


def feature_maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps that `backbone_maps` lists.

    Layers after the last map, which some networks have (EfficientNet's last convolution, VGG's linear layers), are not
    run.

    Args:
        backbone: the network.
        x: (B, C, S, S).

    Returns:
        Maps (B, D_i, h_i, w_i), fine to coarse.
    """
    maps = _all_maps(backbone, x)
    return [maps[m.layer] for m in backbone_maps(backbone)]


def backbone_maps(backbone: nn.Module) -> list[Map]:
    """The deepest map of each size, fine to coarse; a transformer has one, its last tokens.

    Raises:
        UserError: for a backbone that has no maps.
    """
    if not hasattr(backbone, "_maps"):
        backbone._maps = _probe(backbone)  # type: ignore[assignment]
    return backbone._maps  # type: ignore[return-value]


def _probe(backbone: nn.Module) -> list[Map]:
    sizes = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    size = int(sizes[0]) if sizes else PROBE
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            device = next(backbone.parameters()).device
            maps = _all_maps(backbone, torch.zeros(1, in_chans(backbone), size, size, device=device))
    except Exception as error:
        raise UserError(
            f"{type(backbone).__name__} gives no feature maps of a {size} px image ({type(error).__name__}: {error}), "
            "which are needed here: type backbone=resnet18"
        ) from error
    finally:
        backbone.train(was_training)
    deepest = {m.shape[-1]: Map(i, m.shape[1], _stride(size, m.shape[-1])) for i, m in enumerate(maps)}
    return sorted(deepest.values(), key=lambda m: m.stride)


def _stride(size: int, of_map: int) -> int:
    """Pixels for one value; the nearest power of two where layers without padding lose pixels at the edge."""
    return size // of_map if size % of_map == 0 else 2 ** round(math.log2(size / of_map))


def _all_maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    if not hasattr(backbone, "forward_intermediates"):
        return list(_layer_by_layer(backbone, x))
    maps: list[Tensor] = backbone.forward_intermediates(x, norm=True, intermediates_only=True)  # type: ignore[operator]
    norm = getattr(backbone, "fc_norm", None)  # a transformer's last normalisation when timm pools the mean token
    if isinstance(norm, nn.LayerNorm):
        maps = [norm(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for m in maps]
    return maps


def _layer_by_layer(backbone: nn.Module, x: Tensor) -> Iterable[Tensor]:
    """AlexNet's and GoogLeNet's maps, whose layers are a chain."""
    for layer in getattr(backbone, "features", None) or backbone.children():
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return
        x = layer(x)
        yield x


def in_chans(backbone: nn.Module) -> int:
    """The number of bands that a backbone takes: that of its first convolution."""
    return next(p.shape[1] for p in backbone.parameters() if p.ndim == 4)


def patch_side(backbone: nn.Module) -> int:
    """Image sizes must be multiples of it: the side of a transformer's patches in pixels, 1 for other networks."""
    patches = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    return int(patches[0]) if patches else 1


def check_size(backbone: nn.Module, size: int, key: str) -> None:
    """Raises UserError when a transformer's patches do not divide the images; `key` is what to type."""
    side = patch_side(backbone)
    if size % side:
        raise UserError(
            f"this transformer cuts images into patches of {side} pixels, and {size} is no multiple of it: "
            f"type {key}={max(side, side * round(size / side))}"
        )


def pool_depths(backbone: nn.Module, depths: int) -> nn.Module:
    """Makes a network's features the averages of its coarsest maps, joined; the names of its tensors stay.

    MARTA-GAN (Lin et al. 2017, arXiv 1612.08879, section III-C) classifies scenes by features of several depths.

    Args:
        backbone: the network, which is changed.
        depths: how many maps.

    Raises:
        UserError: when the network has no maps of so many sizes.
    """
    maps = backbone_maps(backbone)
    if not 1 < depths <= len(maps):
        raise UserError(
            f"backbone.depths={depths}: this backbone has maps of {len(maps)} sizes; "
            f"type backbone.depths={len(maps)} or fewer"
        )

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([m.mean((2, 3)) for m in feature_maps(self, x)[-depths:]], 1)

    backbone.forward = types.MethodType(forward, backbone)  # type: ignore[method-assign]
    backbone.num_features = sum(m.channels for m in maps[-depths:])  # type: ignore[assignment]
    return backbone
