"""The collapse monitor on embeddings whose state is known by construction."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from rsssl.engine.monitor import CollapseMonitor, effective_rank, embedding_std


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_std_is_one_for_random_directions_and_zero_for_a_point() -> None:
    assert embedding_std(draw(4000, 64)) == pytest.approx(1, abs=0.02)
    assert embedding_std(10 * draw(4000, 64)) == pytest.approx(1, abs=0.02)  # the length of z plays no part
    assert embedding_std(draw(1, 64).expand(100, 64) * torch.rand(100, 1)) == pytest.approx(0, abs=1e-4)
    assert embedding_std(draw(500, 64) * 0.01 + draw(1, 64, seed=1)) < 0.02


def test_rank_counts_dimensions() -> None:
    basis = torch.linalg.qr(draw(256, 256))[0]
    for rank in (1, 5, 40):  # rank equal singular values: the entropy is log(rank)
        assert effective_rank(basis[:, :rank] @ basis[:, :rank].T) == pytest.approx(rank, rel=1e-3)
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])  # by hand: shares 1/2, 1/4, 1/8, 1/8 have 1.75 bits of entropy
    assert effective_rank((basis[:, :4] * values) @ basis[:, 4:8].T) == pytest.approx(2**1.75, rel=1e-4)
    assert effective_rank(torch.zeros(10, 4)) == 0
    assert effective_rank(draw(300, 32).bfloat16()) > 30


def test_healthy_run_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CollapseMonitor()
    for step in range(20):
        std, rank, warning = monitor.check(draw(256, 64, seed=step), step)
        assert warning is None and std > 0.9 and rank > 50
    # all positive, as features behind a ReLU are
    assert all(monitor.check(draw(256, 64, seed=s).relu(), s)[2] is None for s in range(5))
    assert not caplog.records


def test_full_collapse_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CollapseMonitor(patience=3)
    point = draw(1, 64)
    with caplog.at_level(logging.WARNING):
        warnings = [monitor.check(point + 1e-3 * draw(256, 64, seed=s), 10 * s)[2] for s in range(1, 8)]
    assert [w is not None for w in warnings] == [False, False, True, False, False, False, False]
    message = warnings[2]
    assert message and "COLLAPSE at step 30" in message and "same point" in message
    assert "pretrain.lr=1e-4" in message and message.endswith("pretrain.batch_size.")
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING


def test_dimensional_collapse_is_reported() -> None:
    """Well spread along a line: the standard deviation alone would not tell."""
    monitor = CollapseMonitor(patience=2)
    axis = draw(1, 64)
    for step in (1, 2):
        std, rank, warning = monitor.check(draw(256, 1, seed=step) @ axis, step)
        assert std > 0.5 and rank < 1.1
    assert warning is not None and "dimensions" in warning


def test_nan_is_reported() -> None:
    monitor = CollapseMonitor(patience=1)
    std, rank, warning = monitor.check(torch.full((8, 4), math.nan), 1)
    assert math.isnan(std) and math.isnan(rank) and warning is not None and "NaN" in warning


def test_recovery_resets() -> None:
    monitor = CollapseMonitor(patience=2)
    figures = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    fired = [monitor.update(std, 30.0, step) is not None for step, std in enumerate(figures)]
    assert fired == [False] * 5 + [True] + [False] * 2 + [True]
