"""Convolutions that do the work of the normalisation behind them: outputs and gradients are the network's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rsssl.models import depthwise
from rsssl.models.backbone import build_backbone
from rsssl.models.batch_norm import hold_statistics, keep_statistics
from rsssl.models.fused import FusedConvolution, LimitedConvolution, fuse
from rsssl.models.geometry import Geometry
from rsssl.models.parts import in_parts


def settled(name: str, bands: int = 3) -> nn.Module:
    """A network whose normalisations keep statistics and weights that are not those of the start."""
    network = build_backbone(name, bands)
    random = torch.Generator().manual_seed(0)
    for norm in (m for m in network.modules() if isinstance(m, _BatchNorm)):
        for tensor, low, high in (
            (norm.running_mean, -0.3, 0.3),
            (norm.running_var, 0.5, 2.0),
            (norm.weight.data, 0.5, 1.5),
            (norm.bias.data, 0.0, 1.0),
        ):
            tensor.uniform_(low, high, generator=random)
    keep_statistics(network)
    network.train()
    hold_statistics(network)
    return network


def gradients(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    features = network(images)
    (features * torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)).sum().backward()
    return features.detach(), {k: p.grad for k, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "normalisations"),
    [("tf_efficientnet_lite0", 49), ("resnet18", 20), ("efficientnet_b0", 49), ("resnet18_small", 20)],
)
def test_a_fused_network_gives_the_same_features_and_gradients(name: str, normalisations: int) -> None:
    """Gradients in float64, where no rounding puts a value on the other side of an activation's limit."""
    own = settled(name)
    fused = copy.deepcopy(own)
    assert fuse(fused, 3, 64) == normalisations == sum(isinstance(m, FusedConvolution) for m in fused.modules())
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fused(images), own(images), rtol=1e-4, atol=1e-4)
    features, expected = gradients(own.double(), images.double())
    same, found = gradients(fused.double(), images.double())
    torch.testing.assert_close(same, features)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, msg=parameter)


def test_a_fused_network_in_parts_has_the_gradient_of_the_whole() -> None:
    """In float64, where no rounding puts a value on the other side of an activation's limit."""
    whole = settled("tf_efficientnet_lite0")
    fuse(whole, 3, 64)
    whole.double()
    parts = copy.deepcopy(whole)
    in_parts(parts, 2)
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (features, expected), (same, found) = gradients(whole, images), gradients(parts, images)
    torch.testing.assert_close(same, features)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_copy_of_a_fused_network_follows_its_own_weights() -> None:
    fused = settled("tf_efficientnet_lite0")
    fuse(fused, 3, 64)
    other = copy.deepcopy(fused)
    images = torch.randn(2, 3, 32, 32)
    before = fused(images)
    with torch.no_grad():
        for norm in (m for m in other.modules() if isinstance(m, _BatchNorm)):
            norm.weight.mul_(0.5)
    assert torch.equal(fused(images), before)
    assert not torch.allclose(other(images), before)
    assert other.state_dict().keys() == settled("tf_efficientnet_lite0").state_dict().keys()


def test_a_network_that_learns_its_statistics_is_left_as_it_is() -> None:
    network = build_backbone("tf_efficientnet_lite0", 3)
    assert fuse(network, 3, 64) == 0
    assert not any(isinstance(m, FusedConvolution) for m in network.modules())


class Twice(nn.Module):
    """Uses what the convolution gives before it is normalised, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (y + 2 * self.norm(y)).mean((2, 3))


def test_a_convolution_whose_own_output_is_used_is_left_as_it_is() -> None:
    network = Twice()
    network.norm.bias.data.fill_(1.0)
    keep_statistics(network)
    images = torch.randn(2, 3, 8, 8)
    before = network.eval()(images)
    assert fuse(network, 3, 16) == 0
    assert torch.equal(network(images), before)
    assert type(network.conv) is nn.Conv2d


@pytest.mark.parametrize("size", [1, 2, 7, 16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("same", [False, True])
def test_depthwise_loops_compute_what_torch_computes(size: int, kernel: int, stride: int, same: bool) -> None:
    conv = nn.Conv2d(24, 24, kernel, stride, kernel // 2, groups=24)
    geometry = Geometry.of(conv, (size, size), same)
    random = torch.Generator().manual_seed(size)
    x = torch.randn(11, 24, size, size, generator=random).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(24, 1, kernel, kernel, generator=random).requires_grad_()
    bias = torch.randn(24, generator=random).requires_grad_()
    assert depthwise.fits(x, weight, geometry)
    padded = F.pad(x.double(), (geometry.left, geometry.right, geometry.top, geometry.bottom))
    expected = F.relu6(F.conv2d(padded, weight.double(), bias.double(), stride, groups=24))
    y = LimitedConvolution.apply(x, weight, bias, geometry, 0.0, 6.0)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    towards = torch.randn(y.shape, generator=random)
    found = torch.autograd.grad(y, (x, weight, bias), towards)
    for a, b in zip(found, torch.autograd.grad(expected, (x, weight, bias), towards.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_depthwise_loops_give_the_same_on_one_thread_and_on_two() -> None:
    x, weight, bias = torch.randn(9, 16, 6, 6), torch.randn(16, 1, 3, 3), torch.randn(16)
    geometry = Geometry((1, 1), (1, 1), 16, 1, 1, 1, 1)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            y = depthwise.forward(x, weight, bias, geometry, 0.0, 6.0)
            results.append((y, *depthwise.backward(x, weight, y, torch.ones_like(y), geometry, 0.0, 6.0)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_not_a_number_stays_so() -> None:
    x, weight = torch.zeros(1, 8, 4, 4), torch.ones(8, 1, 3, 3)
    x[0, 3, 2, 2] = torch.nan
    y = depthwise.forward(x, weight, torch.zeros(8), Geometry((1, 1), (1, 1), 8, 1, 1, 1, 1), 0.0, 6.0)
    assert y[0, 3].isnan().sum() == 9
    assert not y[0, :3].isnan().any()


def test_limits_and_uneven_padding_have_the_gradient_of_their_differences() -> None:
    conv = nn.Conv2d(3, 5, 3, 2)
    geometry = Geometry.of(conv, (6, 6), same=True)
    assert not geometry.even
    random = torch.Generator().manual_seed(0)
    given = [torch.randn(s, dtype=torch.float64, generator=random) for s in ((2, 3, 6, 6), (5, 3, 3, 3), (5,))]
    given = [t.requires_grad_() for t in given]
    assert torch.autograd.gradcheck(lambda *t: LimitedConvolution.apply(*t, geometry, 0.0, 6.0), given)
