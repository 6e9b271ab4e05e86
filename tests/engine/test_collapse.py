"""A training that collapses is reported by the loop itself; one that does not, is not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.loop import Fit
from rsssl.engine.monitor import CollapseMonitor
from rsssl.optim import Constant

STEPS = 200


class Noisy:
    """Two noisy views of the same 64 points."""

    total_steps, steps_per_epoch, accumulate = STEPS, 10, 1

    def start(self, cursor: int) -> Iterator[Batch]:
        points = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        for step in range(cursor, STEPS):
            noise = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(step + 1))
            yield Batch(torch.arange(64), step // 10, points + 0.3 * noise)


class Agree(nn.Module):
    """The two views' embeddings are to be equal; with `negatives`, also unlike those of other points."""

    def __init__(self, negatives: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.negatives = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), negatives

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = self.net(batch.views[0]), self.net(batch.views[1])
        loss = (a - b).square().mean()
        if self.negatives:
            unit_a, unit_b = nn.functional.normalize(a), nn.functional.normalize(b)
            loss = nn.functional.cross_entropy(unit_a @ unit_b.T / 0.1, torch.arange(len(a)))
        return {"loss": loss, "embedding": a}

    def after_step(self, step: int, total_steps: int) -> None:
        pass


def losses_and_reports(negatives: bool, caplog: pytest.LogCaptureFixture) -> tuple[float, float, list[str]]:
    model = Agree(negatives)
    ends = [batch for batch in Noisy().start(0)][:: STEPS - 1]
    before = model(ends[0])["loss"].item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with caplog.at_level(logging.WARNING, "rsssl"):
        Fit(model, Noisy(), optimizer, Constant(0.0), torch.device("cpu"), monitor=CollapseMonitor()).run()
    return before, model(ends[1])["loss"].item(), [m for m in caplog.messages if "COLLAPSE" in m]


def test_a_training_that_collapses_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    before, after, reports = losses_and_reports(False, caplog)
    assert after < 0.02 * before, "its loss looks splendid"
    assert len(reports) == 1 and "same point" in reports[0]


def test_a_healthy_training_is_not(caplog: pytest.LogCaptureFixture) -> None:
    before, after, reports = losses_and_reports(True, caplog)
    assert after < 0.5 * before and reports == []
