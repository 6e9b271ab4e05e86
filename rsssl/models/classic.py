"""The paper's backbones that timm lacks: AlexNet, GoogLeNet, and stems for small images."""

from __future__ import annotations

import sys

from torch import Tensor, nn

from rsssl.errors import UserError

NAMES = ("alexnet", "alexnet_small", "googlenet")
# Mean and std, in units of 0 to 1, that torchvision's ImageNet weights of them expect.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STANDARDISATION = {"alexnet": _IMAGENET, "alexnet_small": _IMAGENET, "googlenet": ((0.5,) * 3, (0.5,) * 3)}


class FittingMaxPool(nn.MaxPool2d):
    """Max pooling over 3x3 pixels that leaves smaller maps unchanged, so that 32 px tiles pass through AlexNet."""

    def __init__(self) -> None:
        super().__init__(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return x if min(x.shape[-2:]) < 3 else super().forward(x)


class AlexNet(nn.Module):
    """(B, C, H, W) -> (B, 256): the five convolutions of AlexNet, averaged over the image.

    Layers are numbered as in torchvision, so its weights load by name (Krizhevsky, "One weird trick for parallelizing
    convolutional neural networks", 2014). The fully connected layers, 94 % of the original's parameters and tied to
    224 px, are left out.

    Args:
        in_chans: bands of the images.
        small: whether a 3x3 stem of stride 1 replaces the 11x11 stem of stride 4: overall stride 8 instead of 32.
    """

    num_features = 256

    def __init__(self, in_chans: int, small: bool) -> None:
        super().__init__()
        stem = nn.Conv2d(in_chans, 64, 3, padding=1) if small else nn.Conv2d(in_chans, 64, 11, stride=4, padding=2)

        def conv(channels: int, out: int, side: int) -> tuple[nn.Module, nn.Module]:
            return nn.Conv2d(channels, out, side, padding=side // 2), nn.ReLU(inplace=True)

        self.features = nn.Sequential(
            *(stem, nn.ReLU(inplace=True), FittingMaxPool()),
            *(*conv(64, 192, 5), FittingMaxPool()),
            *(*conv(192, 384, 3), *conv(384, 256, 3), *conv(256, 256, 3), FittingMaxPool()),
        )
        self.apply(init_conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean(dim=(2, 3))


def init_conv(module: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852, equation 10), which keeps the size of activations without normalisation."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def googlenet(in_chans: int) -> nn.Module:
    """torchvision's GoogLeNet with batch normalisation, without auxiliary heads: (B, C, H, W) -> (B, 1024).

    Its ImageNet weights expect inputs scaled by (x - 0.5) / 0.5.
    """
    from torchvision.models import googlenet as torchvision_googlenet

    model = torchvision_googlenet(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    model.conv1.conv = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
    model.dropout = nn.Identity()
    model.fc = nn.Identity()
    model.apply(init_conv)
    model.num_features = 1024
    return model


def build_classic(name: str, in_chans: int) -> nn.Module:
    """One of the paper's networks, with random weights.

    Args:
        name: one of NAMES.
        in_chans: bands of the images.
    """
    return googlenet(in_chans) if name == "googlenet" else AlexNet(in_chans, small=name == "alexnet_small")


def small_stem(model: nn.Module, in_chans: int, name: str) -> nn.Module:
    """Replaces a ResNet's 7x7 stem and max pooling by one 3x3 convolution of stride 1 (arXiv 2002.05709, B.9).

    The overall stride falls from 32 to 8: for tiles of 32 to 64 px.

    Args:
        model: a timm ResNet with one convolution `conv1` and a `maxpool`.
        in_chans: bands of the images.
        name: timm's name of the model.

    Raises:
        UserError: when it is another network.
    """
    stem = getattr(model, "conv1", None)
    if not (isinstance(stem, nn.Conv2d) and hasattr(model, "maxpool")):
        raise UserError(f"backbone.name={name}_small: {name} is no ResNet. Type backbone.name={name}")
    model.conv1 = nn.Conv2d(in_chans, stem.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's other convolutions
    model.maxpool = nn.Identity()
    return model


def torchvision_state(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of `name`, fetched (and cached) by torchvision, their checksum checked."""
    from torchvision.models import get_model_weights

    weights = next(iter(get_model_weights(name)))
    return dict(weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True))
