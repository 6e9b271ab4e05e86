"""A forward that does not give what the loop takes is refused at the first step, with what it has to give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.loop import Fit
from rsssl.errors import UserError
from rsssl.methods.base import Method
from rsssl.optim import AdamW, Cosine, parameter_groups


class Mine(nn.Module):
    """A model whose forward gives what `give` makes of its loss (a scalar) and features (8, 2)."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.give, self.steps = nn.Linear(4, 2), give, 0

    def forward(self, batch: Batch) -> Any:
        features = self.net(batch.views[0])
        return self.give(features.square().mean(), features)

    def after_step(self, step: int, total_steps: int) -> None:
        self.steps += 1


class Batches:
    total_steps, steps_per_epoch, accumulate = 3, 3, 1

    def start(self, cursor: int) -> Iterator[Batch]:
        for _ in range(cursor, self.total_steps):
            yield Batch(torch.arange(8), 0, torch.ones(1, 8, 4))


def train(model: Mine) -> None:
    optimizer = AdamW(parameter_groups(model), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    Fit(model, Batches(), optimizer, Cosine(warmup=0.0, final=0.0), torch.device("cpu")).run()


@pytest.mark.parametrize(
    ("give", "wrong"),
    [
        (lambda loss, x: loss, r"it is a tensor of shape \(\)"),
        (lambda loss, x: None, "it is of type NoneType"),
        (lambda loss, x: {"los": loss}, "there is no loss, but los"),
        (lambda loss, x: {"loss": x.mean(1)}, r"loss is a tensor of shape \(8,\) and not a scalar"),
        (lambda loss, x: {"loss": loss.detach()}, "loss has no gradient"),
        (lambda loss, x: {"loss": loss, "share": 0.5}, "share is of type float and not a tensor"),
        (lambda loss, x: {"loss": loss, "embedding": x[None]}, r"embedding is a tensor of shape \(1, 8, 2\)"),
    ],
)
def test_a_wrong_output_is_refused_before_the_first_update(give: Callable[..., Any], wrong: str) -> None:
    model = Mine(give)
    with pytest.raises(UserError, match=rf"Mine\.forward must give .*{wrong}.*return \{{\"loss\": loss, .*\}}$"):
        train(model)
    assert model.steps == 0


def test_the_loss_alone_is_enough_and_only_the_first_output_is_looked_at() -> None:
    model = Mine(lambda loss, x: {"loss": loss})
    train(model)
    assert model.steps == 3 and not model._forward_hooks


def test_a_method_without_a_forward_says_so() -> None:
    class Empty(Method):
        pass

    backbone = nn.Identity()
    backbone.num_features = 2  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^Empty has no forward: write def forward\(self, batch: Batch\)"):
        Empty(backbone, 1)(Batch(torch.arange(8), 0, torch.ones(1, 8, 4)))
