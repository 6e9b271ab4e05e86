"""A batch in parts has the gradient of the whole; averages of weights are what a loop over the steps gives."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rsssl.methods.losses import nt_xent
from rsssl.models.ema import WeightAverage
from rsssl.models.parts import in_parts, mixes_images


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(
        "resnet10t", num_classes=0, channels=[8, 16, 32, 64], stem_width=8, drop_rate=0.0
    ).double()
    for m in model.modules():
        if isinstance(m, _BatchNorm):
            m.eval()
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    nt_xent(model(x).unflatten(0, (2, -1)), 0.1).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_a_contrastive_loss_has_the_gradient_of_the_whole_batch(rows: int) -> None:
    x = torch.randn(16, 3, 32, 32, dtype=torch.double)
    expected = gradients(network(), x)
    model = network()
    in_parts(model, 5)
    in_parts(model, rows)  # the last word counts
    for a, b in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_it_keeps_inputs_instead_of_activations() -> None:
    def kept(model: nn.Module, n: int) -> int:
        sizes: dict[int, int] = {}

        def count(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model(torch.randn(n, 3, 32, 32, dtype=torch.double)).sum()
        return sum(sizes.values())

    whole, parts = network(), network()
    in_parts(parts, 2)
    image = 3 * 32 * 32 * 8
    assert kept(whole, 8) - kept(whole, 4) > 20 * image
    assert kept(parts, 8) - kept(parts, 4) < 3 * 4 * image


def test_batch_norm_in_training_mixes_images() -> None:
    model = network()
    assert not mixes_images(model)
    assert mixes_images(model.train())


def test_the_average_is_that_of_a_loop_over_the_steps() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.25)
    expected = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(40):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
            model[1].running_mean.add_(1.0)
            model[1].num_batches_tracked.add_(1)
        average.follow(step, 40)
        d = min(1 - 1 / 10, (1 + step) / (10 + step))
        for k, v in model.state_dict().items():
            expected[k] = d * expected[k] + (1 - d) * v if v.is_floating_point() else v.clone()
    for k, v in average.module.state_dict().items():
        torch.testing.assert_close(v.double(), expected[k].double(), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in average.module.parameters()) and not average.module.training
