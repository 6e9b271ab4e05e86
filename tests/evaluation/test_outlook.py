"""What more labels would bring: the slope against a closed form, the interval against what then happens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rsssl.evaluation.combined import Combined
from rsssl.evaluation.outlook import SLOPE, SLOPE_SPREAD, outlook, parts, predicted, slope_of
from rsssl.jobs import configured


def test_many_errors_tell_the_slope_and_none_leave_the_usual_one() -> None:
    sizes = [5, 10, 15]
    exact = [(n, 1e7 * 0.4 * n**-0.5, 1e7) for n in sizes]
    slope, spread = slope_of(exact)
    assert slope == pytest.approx(0.5, abs=1e-3) and spread < 2e-3
    few = [(n, 4 * n**-0.5, 10) for n in sizes]
    assert abs(slope_of(few)[0] - SLOPE) < 0.1, "a handful of errors moves it little"
    assert slope_of([])[0] == slope_of(exact[:1])[0] == SLOPE
    assert slope_of([(n, 1e6 * n**0.5, 1e7) for n in sizes])[0] == 0, "more labels do not make it worse"


def test_the_slope_is_the_weighted_least_squares_one_with_the_usual_slope_as_a_measurement() -> None:
    wrong = [(2.0, 30.0, 80.0), (4.0, 20.0, 60.0), (6.0, 12.0, 40.0)]
    x, y = np.log([w[0] for w in wrong]), np.log([(w[1] + 0.5) / (w[2] + 1) for w in wrong])
    weight = np.sqrt([w[1] + 0.5 for w in wrong])
    rows = np.concatenate([np.stack([np.ones(3), -x], 1) * weight[:, None], [[0, 1 / SLOPE_SPREAD]]])
    best = np.linalg.lstsq(rows, np.concatenate([y * weight, [SLOPE / SLOPE_SPREAD]]), rcond=None)[0]
    slope, spread = slope_of(wrong)
    assert slope == pytest.approx(best[1]) and spread == pytest.approx(np.linalg.inv(rows.T @ rows)[1, 1] ** 0.5)


def test_parts_of_the_labels_have_every_class_and_leave_some_out() -> None:
    labels = torch.tensor([0] * 8 + [1] * 2 + [2])
    sizes, known = parts(labels, 0)
    assert len(sizes) == len(known) == 12 and sizes == sorted(sizes)
    for some in known:
        assert (torch.bincount(labels[some], minlength=3) >= 1).all() and not some.all()
    assert len(parts(torch.arange(4), 0)[1]) == 0, "one label a class cannot be divided"
    assert torch.equal(parts(labels, 0)[1], known) and not torch.equal(parts(labels, 1)[1], known)


def world(per_class: int, seed: int, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six classes of 600 kinds each, the k-th of them 1 / k as frequent: what few labels do not show, more do."""
    kinds = np.random.default_rng(seed).normal(size=(6, 600, 24))
    random, often = np.random.default_rng([seed, draw]), 1 / np.arange(1, 601)
    of = random.choice(600, (6, per_class), p=often / often.sum())
    x = kinds[np.arange(6)[:, None], of] + 0.4 * random.normal(size=(6, per_class, 24))
    return torch.from_numpy(x.reshape(-1, 24)).float(), torch.arange(6).repeat_interleave(per_class)


def test_what_is_said_comes_true() -> None:
    """At least eight of ten intervals hold what two and four times the labels then give."""
    hits = 0
    for seed in range(10):
        x, y = world(80, seed, 0)
        new, truth = world(300, seed, 1)
        rank = torch.arange(480) % 80

        def right(labels: int, x=x, y=y, new=new, truth=truth, rank=rank) -> tuple[Combined, float]:
            some = rank < labels
            probe = Combined.of(configured("evaluate", "knn", k=3)).fit(x[some], y[some], 6, 0)
            return probe, float((probe.scores(new).argmax(1) == truth).double().mean())

        probe, oa = right(20)
        said = outlook(probe, x[rank < 20], y[rank < 20], 6, 0, oa, 1800)
        assert [s["labels_per_class"] for s in said] == [40, 80]
        hits += sum(s["low"] <= right(round(s["labels_per_class"]))[1] <= s["high"] for s in said)
    assert hits >= 16, hits


def test_intervals_stay_inside_what_is_possible() -> None:
    for oa in (0.0, 0.5, 1.0):
        said = predicted(oa, 100, 1, 4, 0.3, 0.1)
        assert 0 <= said["low"] <= said["oa"] <= said["high"] <= 1 and math.isfinite(said["low"])
