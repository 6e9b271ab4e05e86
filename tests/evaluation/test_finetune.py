"""Fine-tuning looks at its memory first: on a copy, so that nothing is learnt by looking."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rsssl.engine import memory
from rsssl.errors import UserError
from rsssl.evaluation.finetune import Classifier, fitting

KEPT = (3 + 5 + 5) * 16 * 16 * 4  # bytes of an image: what the convolution and the normalisation take, and their result


class Net(nn.Sequential):
    num_features = 5

    def __init__(self, norm: bool) -> None:
        middle = nn.BatchNorm2d(5) if norm else nn.Sigmoid()
        super().__init__(nn.Conv2d(3, 5, 1), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Batches:
    def ids(self, cursor: int) -> tuple[int, Any]:
        return 0, torch.arange(8).numpy()

    def again(self, epoch: int, ids: Any, step: int) -> Any:
        return SimpleNamespace(views=torch.randn(1, len(ids), 3, 16, 16), labels=torch.zeros(len(ids)).long())


def test_what_does_not_fit_is_said_with_a_batch_that_does_and_nothing_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Classifier(Net(norm=True), 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    assert fitting(model, Batches(), torch.device("cpu")) is None
    monkeypatch.setattr(memory, "available", lambda device: int(1.3 * 3.7 * KEPT))
    with pytest.raises(UserError, match=r"8 images x 1 views of 16 pixels .* finetune\.batch_size=[23]$"):
        fitting(model, Batches(), torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_batch_norm_it_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: int(1.3 * 7 * KEPT / 0.9))
    assert fitting(Classifier(Net(norm=False), 2), Batches(), torch.device("cpu")) in (1, 2, 3, 4)
