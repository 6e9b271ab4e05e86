"""The linear probe as the tasks use it: as accurate as scikit-learn's, choosing among the labelled images only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rsssl.errors import UserError
from rsssl.evaluation.base import deal_folds
from rsssl.evaluation.probe import LinearProbe
from rsssl.evaluation.standardise import Standardise
from rsssl.jobs import configured

new_linear = partial(configured, "evaluate", "linear")  # as conf/evaluate/linear.yaml has it, but for arguments

Make = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize("per_class", [5, 20, 100])
def test_as_accurate_as_scikit_learn(make: Make, per_class: int) -> None:
    """Standardised features and the probe's strength in scikit-learn: within 0.5 points of overall accuracy."""
    x, y = make(per_class, 96, classes=10, seed=1)
    new, truth = make(200, 96, classes=10, seed=1, draw=1)
    probe = new_linear(standardise="zscore").fit(x, y, 10, seed=0)
    ours = float((probe.scores(new).argmax(1) == truth).double().mean())
    scaled = make_pipeline(
        StandardScaler(), LogisticRegression(C=probe.details["strength"] / 96, tol=1e-8, max_iter=9999)
    )
    theirs = float(scaled.fit(x.double().numpy(), y.numpy()).score(new.double().numpy(), truth.numpy()))
    assert abs(ours - theirs) <= 0.005
    assert ours > 0.3  # chance is 0.1


def test_chosen_strength_is_as_good_as_scikit_learns_grid_search(make: Make) -> None:
    x, y = make(100, 64, classes=6, seed=2)
    new, truth = make(300, 64, classes=6, seed=2, draw=1)
    probe = new_linear(standardise="zscore").fit(x, y, 6, seed=0)
    grid = {"logisticregression__C": [s / 64 for s in probe.strengths]}
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(model, grid, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    theirs = search.fit(x.numpy(), y.numpy()).score(new.numpy(), truth.numpy())
    assert float((probe.scores(new).argmax(1) == truth).double().mean()) >= theirs - 0.01


def test_details_and_determinism(make: Make) -> None:
    x, y = make(10, 32, classes=4, seed=3)
    a, b = (new_linear().fit(x, y, 4, seed=7) for _ in range(2))
    assert torch.equal(a.scores(x), b.scores(x)) and a.details == b.details
    assert a.details["strength"] in a.strengths and a.details["chosen_by"] == "5 of 5 folds"
    torch.testing.assert_close(a.scores(x).exp().sum(1), torch.ones(40))
    other = new_linear(max_cross_validated=30).fit(x, y, 4, seed=7)
    assert other.details["chosen_by"] == "1 of 5 folds"


def test_one_label_per_class_uses_the_default(make: Make) -> None:
    x, y = make(1, 32, classes=6, seed=4)
    probe = new_linear(default_strength=77.0).fit(x, y, 6, seed=0)
    assert probe.details["strength"] == 77.0 and probe.details["chosen_by"] == "default"
    assert torch.equal(probe.scores(x).argmax(1), y)


def test_default_is_kept_where_validation_cannot_tell(make: Make) -> None:
    """Well separated classes: every strength is right on every fold."""
    x, y = make(5, 16, classes=3, seed=5, spread=0.01)
    assert new_linear(default_strength=30.0).fit(x, y, 3, seed=0).details["strength"] == 30.0


def test_clearly_better_strength_is_taken() -> None:
    """Faint features tell the classes apart beside loud noise: a weak penalty is needed, far from the default."""
    noise = torch.Generator().manual_seed(6)
    y = torch.arange(4).repeat(40)
    signal = torch.nn.functional.one_hot(y) + 0.3 * torch.randn(160, 4, generator=noise)
    x = torch.cat([signal, 8 * torch.randn(160, 10, generator=noise)], 1)
    probe = new_linear(strengths=[1.0, 1e4], default_strength=1.0, standardise="centre").fit(x, y, 4, seed=0)
    assert probe.details["strength"] == 1e4


def test_unlabelled_class_is_never_predicted(make: Make) -> None:
    x, y = make(8, 16, classes=3, seed=7)
    probe = new_linear().fit(x, y * 2, 6, seed=0)  # classes 0, 2, 4 of 6
    scores = probe.scores(x)
    assert scores.shape == (24, 6) and torch.isneginf(scores[:, [1, 3, 5]]).all()
    assert torch.isfinite(scores[:, [0, 2, 4]]).all()


def test_uneven_classes_and_a_single_class(make: Make) -> None:
    x, y = make(9, 16, classes=3, seed=8)
    few = torch.cat([torch.arange(9), torch.tensor([9, 10]), torch.tensor([18])])  # 9, 2 and 1 labels
    assert torch.isfinite(new_linear().fit(x[few], y[few], 3, seed=0).scores(x)).all()
    alone = new_linear().fit(x[:9], y[:9], 3, seed=0)
    assert (alone.scores(x).argmax(1) == 0).all()


def test_folds_are_stratified() -> None:
    y = torch.tensor([0] * 10 + [1] * 7 + [2] * 1 + [3] * 3)
    dealt = deal_folds(y, 5, seed=0)
    assert dealt[17] == -1  # the only sample of its class is always trained on
    for c, size in ((0, 10), (1, 7), (3, 3)):
        counts = np.bincount(dealt[y == c], minlength=5)
        assert counts.sum() == size and counts.max() - counts.min() <= 1
    sizes = np.bincount(dealt[dealt >= 0])
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(dealt, deal_folds(y, 5, seed=0)) and not torch.equal(dealt, deal_folds(y, 5, seed=1))
    assert int(deal_folds(torch.tensor([0, 0, 1, 1]), 5, 0).max()) == 1


def test_standardise(make: Make) -> None:
    x, _ = make(30, 8, classes=2, seed=9)
    x[:, 3] = 5.0
    for kind, power in (("centre", 0.0), ("partial", 0.5), ("zscore", 1.0)):
        scaler = Standardise(kind).fit(x)
        z = scaler(x)
        torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
        assert float(z.square().sum(1).mean()) == pytest.approx(1, abs=1e-5)
        assert (z[:, 3] == 0).all() and (scaler(x + 1)[:, 3] == 0).all()
        live = [0, 1, 2, 4, 5, 6, 7]
        ratio = z.std(0)[live] / x.std(0)[live] ** (1 - power)
        torch.testing.assert_close(ratio, ratio[0].expand(7), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="centre, partial, zscore"):
        Standardise("minmax")


def test_bad_input(make: Make) -> None:
    x, y = make(3, 8, classes=2, seed=10)
    with pytest.raises(UserError, match=r"pretrain\.lr=1e-4$"):
        new_linear().fit(x.index_fill(1, torch.tensor([2]), float("nan")), y, 2, 0)
    with pytest.raises(ValueError, match="labels"):
        new_linear().fit(x, y, 1, 0)
    with pytest.raises(ValueError, match="must be"):
        new_linear().fit(x, y[:-1], 2, 0)
    with pytest.raises(ValueError, match="positive"):
        LinearProbe([0.0], 1.0, 5, 100, "partial")
