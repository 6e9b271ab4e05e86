"""Frozen networks in fewer steps: batch normalisations folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SAME = 1e-3  # of the largest feature: what a copy may differ by; rounding makes some 1e-6 of it


@torch.no_grad()
def folded(network: nn.Module, bands: int, size: int) -> nn.Module:
    """A copy that computes the same up to rounding, faster: for evaluation only, neither to be trained nor saved.

    In evaluation a batch normalisation is a scale and a shift of each channel, which the weights and bias of the
    convolution before it can do as well (Jacob et al. 2018, arXiv 1712.05877, section 3.2). A network that cannot be
    folded, or computes something else when it is, comes back as it is.

    Args:
        network: images (B, bands, size, size) -> features (B, D), on any device.
        bands: of its images.
        size: pixels of a side of them.
    """
    network.eval()
    if not any(_is_fixed(module) for module in network.modules()):
        return network
    copied = copy.deepcopy(network)
    place = next(network.parameters()).device
    image = torch.randn(1, bands, size, size, generator=torch.Generator().manual_seed(0)).to(place)
    for names in _pairs(copied, image):
        conv, norm = map(copied.get_submodule, names)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        _replace(copied, names[0], fuse_conv_bn_eval(conv, norm))
        _replace(copied, names[1], _after(norm))
    before, after = network(image), copied(image)
    return copied if (before - after).abs().max() <= SAME * before.abs().max() else network


def _is_fixed(module: nn.Module) -> bool:
    """Whether it is a batch normalisation by statistics that it keeps."""
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _pairs(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """The names of convolutions and of the normalisations that take what they give, seen on an image's way; each of
    them used once."""
    pairs, used = [], Counter[str]()
    conv, given = "", image  # the last convolution, and what it gave

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal conv, given
        used[name] += 1
        if isinstance(module, nn.Conv2d):
            conv, given = name, output
        elif conv and inputs[0] is given:
            pairs.append((conv, name))

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda *call: see(name, *call))

    hooks = [watch(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d) or _is_fixed(m)]
    network(image)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm in pairs if used[conv] == used[norm] == 1]


def _after(norm: nn.Module) -> nn.Module:
    """What a normalisation does besides: timm's have an activation of their own."""
    rest = [module for _, module in norm.named_children()]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
