"""Ridge in closed form against scikit-learn and against leaving one out by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from rsssl.evaluation.standardise import Standardise
from rsssl.jobs import configured

new_ridge = partial(configured, "evaluate", "ridge")  # as conf/evaluate/ridge.yaml has it, but for arguments

Make = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize("per_class", [4, 40])  # 20 and 200 samples in 50 dimensions: dual and primal
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_equals_scikit_learn(make: Make, per_class: int, penalty: float) -> None:
    x, y = make(per_class, 50, classes=5, seed=1)
    new, _ = make(20, 50, classes=5, seed=1, draw=1)
    probe = new_ridge(penalties=[penalty]).fit(x, y, 5, seed=0)
    scaler = Standardise().fit(x)
    model = Ridge(alpha=penalty * len(x)).fit(scaler(x).double().numpy(), np.eye(5)[y.numpy()])
    np.testing.assert_allclose(probe.scores(new), model.predict(scaler(new).double().numpy()), atol=1e-5)


@pytest.mark.parametrize("per_class", [3, 25])
def test_leave_one_out_equals_refitting(make: Make, per_class: int) -> None:
    x, y = make(per_class, 20, classes=3, seed=2)
    penalties = [1e-3, 1e-2, 0.1, 1.0]
    probe = new_ridge(penalties=penalties).fit(x, y, 3, seed=0)
    z, hot = Standardise().fit(x)(x).double().numpy(), np.eye(3)[y.numpy()]
    errors = []
    for p in penalties:
        total = 0.0
        for i in range(len(z)):
            rest = np.arange(len(z)) != i
            model = Ridge(alpha=p * len(z)).fit(z[rest], hot[rest])
            total += float(np.square(hot[i] - model.predict(z[i : i + 1])[0]).sum())
        errors.append(total / len(z))
    np.testing.assert_allclose(probe.details["loo_errors"], errors, rtol=1e-6)
    assert probe.details["penalty"] == penalties[int(np.argmin(errors))]


def test_one_label_per_class_and_absent_classes(make: Make) -> None:
    x, y = make(1, 20, classes=4, seed=3)
    probe = new_ridge(default_penalty=0.25).fit(x, y * 2, 8, seed=0)
    assert probe.details["penalty"] == 0.25 and probe.details["chosen_by"] == "default"
    scores = probe.scores(x)
    assert torch.isneginf(scores[:, 1::2]).all() and torch.equal(scores.argmax(1), y * 2)
    alone = new_ridge().fit(x[:1], y[:1], 2, seed=0)
    assert (alone.scores(x).argmax(1) == 0).all()


def test_learns(make: Make) -> None:
    x, y = make(40, 64, classes=6, seed=4)
    new, truth = make(200, 64, classes=6, seed=4, draw=1)
    probe = new_ridge().fit(x, y, 6, seed=0)
    assert float((probe.scores(new).argmax(1) == truth).double().mean()) > 0.5
