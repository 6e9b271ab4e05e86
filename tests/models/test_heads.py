"""The projector: the paper's shape, and normalisation where it belongs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsssl.models.heads import projector


def test_the_papers_head() -> None:
    head = projector(2048, 512, 128)
    assert [type(m) for m in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 2048 * 512 + 2 * 512 + 512 * 128 + 128
    assert head(torch.randn(4, 2048)).shape == (4, 128)


def test_layers_and_the_last_normalisation() -> None:
    head = projector(8, 16, 4, layers=3, bn_last=True)
    assert sum(isinstance(m, nn.Linear) for m in head) == 3
    out = head(torch.randn(256, 8) * 9 + 3)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    assert [type(m) for m in projector(8, 16, 4, layers=1)] == [nn.Linear]
    with pytest.raises(ValueError, match="at least one layer"):
        projector(8, 16, 4, layers=0)
