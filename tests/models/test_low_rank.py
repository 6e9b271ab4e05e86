"""Low-rank adaptation against the sum written out, and merged against not merged."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsssl.models.low_rank import LowRank, adapt, merge


def network() -> nn.Sequential:
    torch.manual_seed(0)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), *pooled)


def learn(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def test_at_first_nothing_changes_and_only_the_sums_learn() -> None:
    model, x = network().eval(), torch.randn(2, 3, 8, 8)
    before = model(x)
    adapt(model, 2)
    assert torch.equal(model(x), before)
    trained = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    # of the convolution and the linear layer; the grouped convolution and the normalisation stay as they are
    assert sorted(trained.values()) == sorted([(2, 27), (6, 2), (2, 6), (4, 2)])


def test_what_is_added_is_the_product_of_two_thin_matrices() -> None:
    model, x = network().eval(), torch.randn(2, 3, 8, 8)
    first, last = model[0].weight.detach().clone(), model[5].weight.detach().clone()
    adapt(model, 2)
    learn(model)
    sums = [m for m in model.modules() if isinstance(m, LowRank)]
    written_out = F.conv2d(x, first + (sums[0].up @ sums[0].down).view(6, 3, 3, 3), model[0].bias)
    y = F.conv2d(model[1](written_out), model[2].weight, model[2].bias, groups=6).mean((2, 3))
    y = F.linear(y, last + sums[1].up @ sums[1].down, model[5].bias)
    torch.testing.assert_close(model(x), y)
    assert torch.linalg.matrix_rank(sums[1].up @ sums[1].down) == 2


def test_merged_it_is_of_plain_layers_and_gives_the_same() -> None:
    model, x = network().eval(), torch.randn(2, 3, 8, 8)
    names, kinds = set(model.state_dict()), [type(m) for m in model.modules()]
    adapt(model, 2)
    learn(model)
    before = model(x)
    merge(model)
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == names and [type(m) for m in model.modules()] == kinds
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rank", [1, 100])
def test_the_rank_is_no_larger_than_the_weights(rank: int) -> None:
    added = LowRank(torch.zeros(6, 3, 2, 2), rank)
    assert added.up.shape == (6, min(rank, 6)) and added.down.shape == (min(rank, 6), 12)
