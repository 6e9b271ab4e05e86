"""The pull towards the start: by hand, in a training, and for methods that do not call the network as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rsssl.batch import Batch
from rsssl.methods.base import Method
from rsssl.methods.distillation import Distillation


class Net(nn.Module):
    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Small(Method):
    """Its loss pulls the features to one side, so that the network forgets."""

    whole = True

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = batch.views.flatten(0, 1)
        features = self.backbone(x) if self.whole else self.backbone.layers(x)
        return {"loss": (features - 1).square().mean()}


class Layers(Small):
    whole = False


def batch(n: int = 5) -> Batch:
    return Batch(torch.arange(n), 0, torch.randn(2, n, 3, 2, 2), None, None, 0, None)


def by_hand(told: np.ndarray, target: np.ndarray) -> float:
    told, target = told - told.mean(0), target - target.mean(0)
    cosines = [a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in zip(told, target, strict=True)]
    return 1 - float(np.mean(cosines))


@pytest.mark.parametrize("kind", [Small, Layers])
def test_the_loss_is_one_minus_the_mean_cosine_from_the_mean_of_the_first_views(kind: type[Method]) -> None:
    torch.manual_seed(0)
    method, x = kind(Net(), 2), batch()
    plain = method(x)["loss"].item()
    start = method.backbone(x.views[0]).detach().numpy()
    pull = Distillation(method, 0.7)
    assert method(x)["distillation"].item() == pytest.approx(0, abs=1e-6), "it begins with the features as they are"
    with torch.no_grad():
        for p in [*method.backbone.parameters(), *pull.head.parameters()]:
            p.add_(0.3 * torch.randn_like(p))
        plain = float((method.backbone(x.views.flatten(0, 1)) - 1).square().mean())
        told = pull.head(method.backbone(x.views[0])).numpy()
    outputs = method(x)
    assert outputs["distillation"].item() == pytest.approx(by_hand(told, start), abs=1e-5)
    assert outputs["loss"].item() == pytest.approx(plain + 0.7 * by_hand(told, start), abs=1e-5)


def test_the_start_is_neither_trained_nor_saved_and_looking_without_gradient_leaves_nothing() -> None:
    method = Small(Net(), 2)
    names = {name for name, _ in method.named_parameters()}
    pull = Distillation(method, 1.0)
    added = {name for name, _ in method.named_parameters()} - names
    assert added == {"distillation.head.weight", "distillation.head.bias"}
    assert set(method.state_dict()) == names | added
    with torch.no_grad():
        outputs = method(batch())
    assert "distillation" not in outputs and not pull._seen


def test_it_keeps_what_the_method_would_forget() -> None:
    """How well a linear layer reads the first features from the trained ones, least squares on other images."""

    def forgotten(weight: float) -> float:
        torch.manual_seed(0)
        method = Small(Net(), 2)
        start = nn.Sequential(*method.backbone.layers)
        x = torch.randn(400, 3, 2, 2)
        target = start(x).detach()
        if weight:
            Distillation(method, weight)
        optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
        for _ in range(400):
            loss = method(batch(32))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        features = torch.cat([method.backbone(x).detach(), torch.ones(400, 1)], 1)
        residual = target - features @ torch.linalg.lstsq(features, target).solution
        return float(residual.square().mean() / (target - target.mean(0)).square().mean())

    assert forgotten(3.0) < 0.5 * forgotten(0.0)
