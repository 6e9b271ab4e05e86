"""Learning rates at the steps where they go wrong, against torch's own schedulers and as an optimizer sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import lr_scheduler as torchs

from rsssl.batch import Batch
from rsssl.engine.loop import Fit
from rsssl.optim import SGD, Cosine, Linear, Schedule

CONF = Path(__file__).resolve().parents[2] / "conf" / "schedule"
TOTAL = 200


def of(name: str) -> Schedule:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")


@pytest.mark.parametrize(
    ("name", "warm", "last"),
    [
        ("constant", 10, 1.0),
        ("linear", 10, 1 - 189 / 190),
        ("cosine", 20, math.sin(math.pi / 360) ** 2),  # (1 + cos(pi * 179/180)) / 2
        ("step", 10, 0.01),
        ("polyline", 10, 0.3 * (2 - 2 * 189 / 190)),
    ],
)
def test_first_step_end_of_the_warm_up_last_step(name: str, warm: int, last: float) -> None:
    """Of 200 steps, `warm` are the warm-up: no step is wasted at rate 0, none is above the peak."""
    schedule = of(name)
    assert schedule(0, TOTAL) == pytest.approx(1 / (warm + 1))
    assert schedule(warm - 1, TOTAL) == pytest.approx(warm / (warm + 1)) and schedule(warm, TOTAL) == pytest.approx(1)
    assert schedule(TOTAL - 1, TOTAL) == pytest.approx(last) and schedule(TOTAL - 1, TOTAL) > 0
    assert all(0 <= schedule(0, n) <= 1 and 0 < schedule(n - 1, n) <= 1 for n in (1, 2, 3, 10**7))


@pytest.mark.parametrize(("warm", "final"), [(1, 0.0), (20, 0.1), (199, 0.0)])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_warm_up_and_curve_are_torchs_one_after_the_other(kind: str, warm: int, final: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rest = TOTAL - warm
    after = (
        torchs.CosineAnnealingLR(optimizer, rest, eta_min=final)
        if kind == "cosine"
        else torchs.LinearLR(optimizer, 1.0, final, rest)
    )
    up = torchs.LinearLR(optimizer, 1 / (warm + 1), 1.0, warm)
    both = torchs.SequentialLR(optimizer, [up, after], [warm])
    theirs = []
    for _ in range(TOTAL):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    ours = (Cosine if kind == "cosine" else Linear)(warmup=warm / TOTAL, final=final)
    np.testing.assert_allclose([ours(s, TOTAL) for s in range(TOTAL)], theirs, atol=1e-9)


class Counted:
    """Batches without content, of which each step takes `accumulate`."""

    total_steps, steps_per_epoch = 12, 4

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate

    def start(self, cursor: int) -> Iterator[Batch]:
        for number in range(cursor, self.total_steps * self.accumulate):
            yield Batch(torch.arange(2), number, torch.zeros(1, 2, 1, 1, 1))


class Sum(nn.Module):
    """A loss with gradient 1 for both weights, so that a step of SGD moves each by its learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.seen, self.after = list[tuple[float, float]](), list[int]()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.a + self.b).sum()}

    def after_step(self, step: int, total_steps: int) -> None:
        self.after.append(step)
        self.seen.append((self.a.item(), self.b.item()))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loop_steps_at_these_rates_and_accumulated_batches_count_once(accumulate: int) -> None:
    """Two groups with peaks of their own; the batches that make a step are one step of the schedule and of averages."""
    model, schedule = Sum(), Cosine(warmup=0.25, final=0.1)
    groups = [{"params": [model.a], "lr": 1.0}, {"params": [model.b], "lr": 0.1}]
    Fit(
        model,
        Counted(accumulate),
        SGD(groups, lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False),
        schedule,
        torch.device("cpu"),
    ).run()
    moved = -np.diff(np.array([(0.0, 0.0), *model.seen]), axis=0)
    factors = [schedule(s, 12) for s in range(12)]
    np.testing.assert_allclose(moved, np.outer(factors, [1.0, 0.1]), atol=1e-5)
    assert model.after == list(range(12))
