"""The device that a network runs on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsssl.engine.device import autocast, on_device, pick_device, seed_dropout
from rsssl.errors import UserError


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UserError, match=r"device=abacus is not available .* type device=cpu"):
        pick_device("abacus")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_rank_takes_its_own_accelerator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)  # there may be none here
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert pick_device(name) == torch.device("cuda", 3) and current == [torch.device("cuda", 3)]


def test_on_a_cpu_convolutions_are_channels_last_and_precision_is_full() -> None:
    model = on_device(nn.Conv2d(3, 4, 3), torch.device("cpu"))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    with autocast(torch.device("cpu")):
        assert model(torch.randn(1, 3, 5, 5)).dtype == torch.float32


def test_dropout_is_a_function_of_seed_batch_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int, number: int, rank: int) -> float:
        monkeypatch.setenv("RANK", str(rank))
        seed_dropout(seed, number)
        return torch.rand(()).item()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    first = [draw(*key) for key in keys]
    assert first == [draw(*key) for key in keys] and len(set(first)) == 4
