"""The fully convolutional short cut: equal to tiles where nothing is padded, and refused where it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsssl.errors import UserError
from rsssl.evaluation.heads import LinearHead
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks.dense import DenseClassifier
from rsssl.networks.network import SceneNetwork

SIZE = 64
CARD = SensorCard(
    "t", ("a", "b", "c"), "uint8", (0.0,) * 3, (255.0,) * 3, None, (0.5,) * 3, (0.2,) * 3, ("x", "y", "z"), (SIZE, SIZE)
)


def classifier(backbone: nn.Module, seed: int = 0) -> SceneNetwork:
    generator = torch.Generator().manual_seed(seed)
    width: Any = backbone.num_features
    head = LinearHead(torch.randn(3, width, generator=generator), torch.randn(3, generator=generator))
    return SceneNetwork(backbone, Preprocess(CARD, SIZE, CARD.mean, CARD.std), head)


class Unpadded(nn.Module):
    """A backbone whose map has no padding: two convolutions as large as their strides."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.ReLU())

    def forward_features(self, x: Tensor) -> Tensor:
        return self.convs(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def by_tile(model: SceneNetwork, x: Tensor, stride: int) -> Tensor:
    rows, cols = ((n - SIZE) // stride + 1 for n in x.shape[2:])
    tiles = [
        x[:, :, i * stride : i * stride + SIZE, j * stride : j * stride + SIZE]
        for i in range(rows)
        for j in range(cols)
    ]
    return torch.stack([model.standardised(tile) for tile in tiles], 1).view(len(x), rows, cols, -1)


@pytest.mark.parametrize("stride", [8, 24, 32, 64])
@torch.inference_mode()
def test_without_padding_it_equals_tile_by_tile(stride: int) -> None:
    torch.manual_seed(0)
    model = classifier(Unpadded())
    x = torch.randn(2, 3, SIZE + 3 * stride, SIZE + 2 * stride)
    torch.testing.assert_close(DenseClassifier(model, stride)(x), by_tile(model, x, stride), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "efficientnet_lite0"])
@torch.inference_mode()
def test_one_window_is_the_classifier_itself(name: str) -> None:
    model = classifier(build_backbone(name, 3))
    x = torch.randn(1, 3, SIZE, SIZE)
    torch.testing.assert_close(DenseClassifier(model, 32)(x)[0, 0], model.standardised(x), atol=1e-4, rtol=1e-4)


def test_what_is_no_average_of_a_map_is_refused() -> None:
    for name, kwargs in (("vit_tiny_patch16_224", {"img_size": SIZE, "depth": 1}), ("googlenet", {})):
        with pytest.raises(UserError, match=r"map\.fast=true: .*leave out map\.fast"):
            DenseClassifier(classifier(build_backbone(name, 3, kwargs=kwargs)), 32)
    with pytest.raises(UserError, match=r"stands for 32 pixels.*type map\.stride=32"):
        DenseClassifier(classifier(build_backbone("resnet10t", 3)), 48)


@torch.inference_mode()
def test_a_head_that_has_learnt_says_what_the_classifier_says_tile_by_tile() -> None:
    """Of smooth random images, on windows it has not learnt from; without learning it is little better than chance."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet10t", 3).eval()
    images = (
        torch.nn.functional.interpolate(torch.randn(16, 3, 24, 24), (256, 256), mode="bicubic")
        * torch.rand(16, 3, 1, 1)
        * 4
    )
    model = classifier(backbone)
    features = backbone(images[:, :, :SIZE, :SIZE])
    model.head = LinearHead((features[:3] - features.mean(0)) / features.std(0).mean() ** 2, torch.zeros(3))
    logits = features @ model.head.weight.T
    model.head.bias.sub_(logits.mean(0))
    dense = DenseClassifier(model, 32)
    truth = torch.stack([by_tile(model, image[None], 32)[0] for image in images[12:]]).argmax(-1)
    before = (dense(images[12:]).argmax(-1) == truth).float().mean()
    dense.learn(images[:12])
    after = (dense(images[12:]).argmax(-1) == truth).float().mean()
    assert after > 0.75 and after > before + 0.1
