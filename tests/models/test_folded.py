"""Batch normalisations folded into convolutions: the same features from fewer layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rsssl.models.backbone import build_backbone
from rsssl.models.folded import folded

NETWORKS = {"resnet10t": 1, "tf_efficientnet_lite0": 1, "resnet34_small": 3, "googlenet": 1, "vgg11_bn": 1}


def lived(network: nn.Module, bands: int = 4) -> nn.Module:
    """With statistics, scales and shifts unlike those of a new network, as after a training."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2, generator=generator)
            for values in (module.running_mean, module.bias.data):
                values.normal_(0, 0.3, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_features_are_those_of_the_network_which_stays_as_it_was(name: str) -> None:
    network = lived(build_backbone(name, 4, depths=NETWORKS[name]))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.randn(5, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    quick = folded(network, 4, 64)
    with torch.inference_mode():
        expected, given = network(images), quick(images)
    assert norms(network) > 5 and norms(quick) == 0
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_network_without_batch_normalisation_is_not_copied() -> None:
    network = build_backbone("convnext_atto", 3)
    assert folded(network, 3, 64) is network


class Shared(nn.Module):
    """The convolution's own output is used beside the normalised one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (y + self.norm(y)).mean((2, 3))


class Twice(nn.Module):
    """One convolution with two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(self.conv(x)) + self.other(self.conv(x)).relu()).mean((2, 3))


class Batchwise(nn.Module):
    """A normalisation that keeps no statistics: it depends on the batch in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


@pytest.mark.parametrize("network", [Shared(), Twice(), Batchwise()], ids=lambda n: type(n).__name__)
def test_what_cannot_be_folded_computes_what_it_did(network: nn.Module) -> None:
    if not isinstance(network, Batchwise):
        lived(network)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network.eval()(images)
        assert torch.equal(folded(network, 3, 16)(images), expected)
