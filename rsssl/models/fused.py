"""Convolutions that do the work of the batch normalisation and the activation behind them.

A normalisation that keeps its statistics is y = (x - mean) * s + b with s = g / sqrt(var + eps) in each channel, so a
convolution with weights w * s and bias b - mean * s does both at once (Jacob et al. 2018, arXiv 1712.05877, section
3.2). The weights are folded in every step: w, g and b are trained as before, to gradients that differ by rounding
alone. What is saved: two passes over the maps forward and backward, and the maps in between.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rsssl.models import depthwise
from rsssl.models.batch_norm import KEEPS
from rsssl.models.geometry import Geometry

FREE = (-math.inf, math.inf)  # the limits of a map without an activation
LIMITS = {nn.Identity: FREE, nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}  # activations that only limit
IDLE = (nn.Identity, type(None))
SAME = 1e-4  # of the largest feature: what rounding may change

convolve, convolve_backward = torch.ops.aten.convolution, torch.ops.aten.convolution_backward


def fuse(network: nn.Module, bands: int, size: int) -> int:
    """Lets convolutions of a network take in the normalisations behind them that keep their statistics, in place.

    Names and shapes of parameters and buffers stay. A network that computes something else afterwards, because it uses
    a convolution's own output too, is left as it was.

    Args:
        network: images to features, on a CPU; its normalisations are marked by `keep_statistics`.
        bands: of its images.
        size: pixels of the images that it is tried with.

    Returns:
        How many normalisations were taken in.
    """
    if not any(takes_in(module) for module in network.modules()):
        return 0
    image = torch.linspace(-2, 2, bands * size * size).view(bands, size, size)
    images = torch.stack([image, image.flip(1), image.mT, image.mT.flip(2)])
    training = network.training
    try:
        pairs, before = _pairs(network.eval(), images)
        classes = [(module, module.__class__) for pair in pairs for module in pair]
        for conv, norm in pairs:
            _join(conv, norm)
        if _same(network, images, before):
            return len(pairs)
        for module, own in classes:
            module.__class__ = own
        return 0
    finally:
        network.train(training)


def is_fused(network: nn.Module) -> bool:
    """Whether convolutions of the network do the work of normalisations."""
    return any(isinstance(module, FusedConvolution) for module in network.modules())


def takes_in(module: nn.Module) -> bool:
    """Whether it is a normalisation that a convolution can do the work of."""
    whole = isinstance(module, _BatchNorm) and module.affine and isinstance(getattr(module, "drop", None), IDLE)
    return whole and getattr(module, KEEPS, False)


def _pairs(network: nn.Module, images: Tensor) -> tuple[list[tuple[nn.Conv2d, _BatchNorm]], Tensor]:
    """Convolutions, each with the normalisation that its output goes into; and the features of the images."""
    from timm.layers import Conv2dSame

    made: list[tuple[Tensor, nn.Conv2d]] = []  # kept: no other map gets the place of one in memory
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []

    def note(conv: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> None:
        made.append((y, conv))  # type: ignore[arg-type]

    def find(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, norm) for y, conv in made if y is arguments[0])  # type: ignore[misc]

    hooks = []
    for module in network.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and getattr(module, "padding_mode", None) == "zeros":
            hooks.append(module.register_forward_hook(note))
        elif takes_in(module):
            hooks.append(module.register_forward_pre_hook(find))
    with torch.no_grad():
        features = network(images)
    for hook in hooks:
        hook.remove()
    return pairs, features


def _same(network: nn.Module, images: Tensor, before: Tensor) -> bool:
    """Whether the features are what they were, and have gradients: nothing that these need is written over."""
    with torch.enable_grad():
        after = network(images)
        try:
            torch.autograd.grad(after.sum(), [p for p in network.parameters() if p.requires_grad], allow_unused=True)
        except RuntimeError:
            return False
    return bool((after - before).abs().max() <= SAME * before.abs().max())


def _join(conv: Any, norm: Any) -> None:
    """Makes the convolution do the normalisation's work, and its activation's where that only limits."""
    activation = type(getattr(norm, "act", nn.Identity()))
    conv.same_padding = type(conv) is not nn.Conv2d
    conv.taken_in, conv.limits = (norm,), LIMITS.get(activation, FREE)  # in a tuple: its weights are not the conv's too
    conv.__class__ = FusedConvolution
    norm.activates = activation not in LIMITS
    norm.__class__ = TakenIn


class FusedConvolution(nn.Conv2d):
    """A convolution with the normalisation `taken_in`, its output within `limits`. `fuse` makes it of others."""

    taken_in: tuple[_BatchNorm]
    limits: tuple[float, float]
    same_padding: bool

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.taken_in[0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias + ((0.0 if self.bias is None else self.bias) - norm.running_mean) * scale
        geometry = Geometry.of(self, x.shape[-2:], self.same_padding)
        y: Tensor = LimitedConvolution.apply(x, self.weight * scale.view(-1, 1, 1, 1), bias, geometry, *self.limits)
        return y


class TakenIn(_BatchNorm):
    """A normalisation whose work a convolution does; what it has behind it that does not only limit stays its own."""

    activates: bool

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) if self.activates else x  # type: ignore[operator, no-any-return]


class LimitedConvolution(torch.autograd.Function):
    """min(max(weight * x + bias, low), high). Backward needs x and the output, which the next layer keeps anyway."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, low: float, high: float
    ) -> Tensor:
        ctx.geometry, ctx.low, ctx.high = geometry, low, high
        ctx.by_loops, ctx.limited = depthwise.fits(x, weight, geometry), (low, high) != FREE
        if ctx.by_loops:
            y = depthwise.forward(x, weight, bias, geometry, low, high)
        else:
            y = convolve(*_padded(x, geometry, weight, bias), False, [0, 0], geometry.groups)
            if ctx.limited:
                y.clamp_(low, high)
        ctx.save_for_backward(x, weight, y if ctx.limited else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x, weight, y), geometry = ctx.saved_tensors, ctx.geometry
        if ctx.by_loops:
            of_x, of_weight, of_bias = depthwise.backward(x, weight, y, of_y, geometry, ctx.low, ctx.high)
        else:
            if ctx.limited:
                of_y = torch.ops.aten.hardtanh_backward(of_y, y, ctx.low, ctx.high)
            x, _, _, *how = _padded(x, geometry, weight, None)
            needed = [ctx.needs_input_grad[0], True, True]
            of_x, of_weight, of_bias = convolve_backward(
                of_y, x, weight, [len(weight)], *how, False, [0, 0], geometry.groups, needed
            )
            if of_x is not None and not geometry.even:
                rows, columns = of_x.shape[-2] - geometry.bottom, of_x.shape[-1] - geometry.right
                of_x = of_x[..., geometry.top : rows, geometry.left : columns]
        return of_x, of_weight, of_bias, None, None, None


def _padded(x: Tensor, geometry: Geometry, weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    """The arguments of torch's convolution up to the dilation; it pads evenly only."""
    if geometry.even:
        return x, weight, bias, geometry.stride, [geometry.top, geometry.left], geometry.dilation
    x = F.pad(x, (geometry.left, geometry.right, geometry.top, geometry.bottom))
    return x, weight, bias, geometry.stride, [0, 0], geometry.dilation
