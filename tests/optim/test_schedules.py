"""Schedules at their ends, against torch's own, and for every setting within [0, 1]."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rsssl.errors import UserError
from rsssl.optim import Constant, Cosine, Linear, Polyline, Schedule, Step

CONF = Path(__file__).resolve().parents[2] / "conf" / "schedule"
NAMES = sorted(p.stem for p in CONF.glob("*.yaml"))


def of(name: str, **arguments: float) -> Schedule:
    """The schedule as its YAML has it, but for these arguments."""
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), **arguments)


def test_all_five_are_there() -> None:
    assert NAMES == ["constant", "cosine", "linear", "polyline", "step"]


@pytest.mark.parametrize("name", NAMES)
def test_warm_up(name: str) -> None:
    schedule = of(name, warmup=0.1)
    factors = [schedule(s, 100) for s in range(100)]
    np.testing.assert_allclose(factors[:11], np.arange(1, 12) / 11)  # 10 steps of warm-up; the 11th is the peak
    assert max(factors) == 1.0 and all(a >= b for a, b in pairwise(factors[10:]))


def test_last_step() -> None:
    last = 99 / 100
    polyline = of("polyline", warmup=0.0)
    assert of("constant", warmup=0.0)(99, 100) == 1
    assert Linear(0.0, 0.2)(99, 100) == pytest.approx(1 - 0.8 * last)
    assert Cosine(0.0, 0.0)(99, 100) == pytest.approx(np.cos(np.pi * last / 2) ** 2)
    assert of("step", warmup=0.0)(99, 100) == pytest.approx(0.01)
    assert polyline(99, 100) == pytest.approx(0.3 * 0.02)
    assert [s(100, 100) for s in (Cosine(0.0, 0.1), Linear(0.0, 0.1), polyline)] == pytest.approx([0.1, 0.1, 0])


def _torch(make: type, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    factors = []
    for _ in range(40):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_curves_are_torchs() -> None:
    lr = torch.optim.lr_scheduler
    steps = range(40)
    np.testing.assert_allclose(
        [Cosine(0.0, 0.1)(s, 40) for s in steps], _torch(lr.CosineAnnealingLR, T_max=40, eta_min=0.1)
    )
    line = _torch(lr.LinearLR, start_factor=1.0, end_factor=0.2, total_iters=40)
    np.testing.assert_allclose([Linear(0.0, 0.2)(s, 40) for s in steps], line)
    stairs = _torch(lr.MultiStepLR, milestones=[20, 30], gamma=0.5)
    np.testing.assert_allclose([Step(0.0, [0.5, 0.75], 0.5)(s, 40) for s in steps], stairs)


def test_polyline_is_interpolation() -> None:
    points = [(0, 0.2), (0.25, 1), (0.5, 0.5), (1, 0)]
    ours = [Polyline(0.0, points)(s, 64) for s in range(64)]
    np.testing.assert_allclose(ours, np.interp(np.arange(64) / 64, *zip(*points, strict=True)))


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(NAMES), total=st.integers(1, 500), warmup=st.floats(0, 1, exclude_max=True), at=st.floats(0, 1)
)
def test_factors_stay_within_bounds(name: str, total: int, warmup: float, at: float) -> None:
    schedule = of(name, warmup=warmup)
    assert 0 <= schedule(min(int(at * total), total - 1), total) <= 1


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup=5 should be the share .*Type schedule.warmup="):
        Cosine(warmup=5, final=0.0)
    with pytest.raises(UserError, match=r"schedule.final holds 2"):
        Linear(0.0, final=2)
    with pytest.raises(UserError, match=r"must rise from 0 to 1"):
        Polyline(0.0, [[0, 1], [0.6, 0.5], [0.5, 0], [1, 0]])
    with pytest.raises(ValueError, match="step 11 of 10"):
        Constant(0.0)(11, 10)
