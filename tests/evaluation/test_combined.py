"""Several classifiers as one, and their calibration: against scikit-learn, scipy-free closed forms and torchmetrics."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import log_loss

from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.combined import HOLD, Combined, pool_weights
from rsssl.evaluation.features import FeatureBank
from rsssl.evaluation.frozen import fitted
from rsssl.evaluation.heads import head_from
from rsssl.evaluation.job import Job
from rsssl.evaluation.metrics import BINS, calibration
from rsssl.jobs import configured

auto = partial(configured, "evaluate", "auto")  # as conf/evaluate/auto.yaml has it, but for arguments


def pooled(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray, start: np.ndarray) -> float:
    """What the weights minimise, with scikit-learn's log-loss."""
    scores = np.tensordot(weights, logits, 1)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = log_loss(truth, p, labels=list(range(p.shape[1])), normalize=False)
    return float(loss + HOLD * np.square(np.log(weights / start)).sum())


@pytest.mark.parametrize("parts", [1, 2])
def test_the_weights_are_the_best_of_a_fine_grid(parts: int) -> None:
    rng = np.random.default_rng(parts)
    truth = rng.integers(0, 4, 60)
    logits = rng.normal(0, 2, (parts, 60, 4)) + 1.5 * np.eye(4)[truth] * np.arange(1, parts + 1)[:, None, None]
    start = np.array([1.0, 0.3])[:parts]
    found = pool_weights(torch.tensor(logits), torch.tensor(truth), torch.tensor(start).float()).double().numpy()
    grid = np.geomspace(0.02, 5, 60)
    several = np.stack(np.meshgrid(*[grid] * parts), -1).reshape(-1, parts)
    least = min(pooled(logits, truth, w, start) for w in several)
    assert pooled(logits, truth, found, start) <= least + 1e-4
    assert pooled(logits, truth, found, start) > least - 0.1, "the grid is fine enough to be near"


def test_what_cannot_be_multiplied_does_no_harm() -> None:
    """A class without labels has a logit of minus infinity."""
    logits = torch.randn(2, 30, 3)
    logits[0, :, 2] = -torch.inf
    weights = pool_weights(logits, torch.randint(0, 2, (30,)), torch.ones(2))
    assert torch.isfinite(weights).all() and (weights > 0).all()


def test_calibration_of_a_classifier_that_is_too_sure(make) -> None:
    """Ridge regression's scores times 14 are too sure for such classes: the weight that is found makes them right."""
    x, y = make(20, 32, 4, seed=1, spread=6.0)
    new, truth = make(500, 32, 4, seed=1, draw=1, spread=6.0)
    one = Combined.of(configured("evaluate", "ridge")).fit(x, y, 4, 0)
    before, after = (calibration(h(new).detach().numpy(), truth.numpy()) for h in (one.plain, one.head()))
    assert after["ece"] < before["ece"] / 2 and after["nll"] < before["nll"] and after["brier"] < before["brier"]
    assert torch.equal(one.plain(new).argmax(1), one.head()(new).argmax(1)), "calibration changes no class"
    theirs = RidgeClassifier(alpha=1.0).fit(x.numpy(), y.numpy()).score(new.numpy(), truth.numpy())
    assert float((one.scores(new).argmax(1) == truth).double().mean()) >= theirs - 0.02


@pytest.mark.parametrize("name", ["linear", "ridge", "knn"])
def test_images_that_are_held_out_are_seen_by_no_fit(make, name: str) -> None:
    """Wrong labels: a classifier that had seen them would know, one that has not is at chance."""
    x, _ = make(20, 64, 3, seed=2)
    y = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(3), 20)))
    probe = configured("evaluate", name).fit(x, y, 4, 0)
    held = probe.held_out(x, y, 4, 0)
    assert held.shape == (60, 4) and not held.isnan().any()
    assert float((held.argmax(1) == y).double().mean()) < 0.6
    single = torch.cat([torch.arange(3), torch.zeros(2, dtype=torch.long)])
    few = probe.fit(x[:5], single, 4, 0).held_out(x[:5], single, 4, 0)
    assert few.isnan().all(1).tolist() == [False, True, True, False, False], "the only image of a class stays in"


def test_together_they_are_never_far_behind_the_best(make) -> None:
    for per_class, spread in ((2, 1.2), (5, 1.2), (20, 3.0)):
        x, y = make(200, 32, 5, seed=3, spread=spread)
        new, truth = make(200, 32, 5, seed=3, draw=1, spread=spread)
        rows = (torch.arange(1000) % 200) < per_class
        whole = auto().fit(x[rows], y[rows], 5, 0, pool=x[~rows])
        right = {n: float((h(new).argmax(1) == truth).double().mean()) for n, h in whole.heads.items()}
        ours = float((whole.scores(new).argmax(1) == truth).double().mean())
        assert set(right) == {"linear", "ridge", "propagate"} == set(whole.details["weights"])
        assert ours >= max(right.values()) - 0.04, (right, ours)


def test_the_stated_rule_where_nothing_can_be_held_out(make) -> None:
    x, y = make(50, 16, 3, seed=5)
    rows = torch.arange(0, 150, 50)
    rest = torch.ones(150, dtype=torch.bool)
    rest[rows] = False
    whole = auto().fit(x[rows], y[rows], 3, 0, pool=x[rest])
    assert whole.details["held_out"] == 0 and whole.details["weights_by"] == "shares"
    sharp = {name: part.sharpness for name, part in whole.parts.items()}
    shares = {n: share for n, share in whole.shares.items() if n != "statistics"}  # there are none here
    together = sum(shares.values())
    assert set(shares) == {"linear", "ridge", "propagate"} and shares["propagate"] > 0.5
    assert whole.details["weights"] == pytest.approx({n: shares[n] * sharp[n] / together for n in shares})


def test_a_part_that_looks_at_the_statistics_decides_where_the_features_say_nothing(make) -> None:
    x, y = make(60, 4, 3, seed=6, spread=0.3)
    features = torch.cat([torch.randn(180, 20, generator=torch.Generator().manual_seed(0)), x], 1)
    rows = torch.arange(180) % 60 < 12
    whole = auto()
    whole.n_statistics = 4
    whole.fit(features[rows], y[rows], 3, 0, pool=features[~rows])
    right = float((whole.scores(features[~rows]).argmax(1) == y[~rows]).double().mean())
    assert right > 0.9 and whole.weights["statistics"] > 3 * whole.weights["linear"]
    head = head_from(whole.head().settings(), whole.head().state_dict())
    assert head.width == 24
    torch.testing.assert_close(head(features), whole.scores(features))
    alone = whole.parts["statistics"].layer()
    torch.testing.assert_close(whole.heads["statistics"].layer[0][:, 20:], alone[0])
    assert not whole.heads["statistics"].layer[0][:, :20].any(), "zeros for what it does not look at"


def test_without_a_pool_propagation_stands_aside_and_one_layer_is_left(make) -> None:
    x, y = make(10, 16, 3, seed=6)
    alone = auto().fit(x, y, 3, 0)
    assert set(alone.heads) == {"linear", "ridge"} and alone.head().layer is not None
    for whole in (alone, auto().fit(x[::2], y[::2], 3, 0, pool=x[1::2])):
        head = whole.head()
        again = head_from(head.settings(), head.state_dict())
        torch.testing.assert_close(again(x), whole.scores(x))
        logits = sum(w * whole.heads[n].logits(x) for n, w in whole.details["weights"].items())
        torch.testing.assert_close(whole.scores(x), logits.softmax(1))
    with pytest.raises(UserError, match=r"evaluate\.shares\.NAME="):
        Combined({"linear": configured("evaluate", "linear")}, {"ridge": 1.0})


def test_the_choice_never_sees_a_test_image(make, tmp_path: Path) -> None:
    """Other labels of the test images, and other images in their place, leave weights, classifier and choice as they
    are."""
    x, y = make(60, 24, 4, seed=7, spread=2.0)
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    test, pool = np.arange(80), np.arange(80, 240)
    train = np.concatenate([pool[y[80:].numpy() == c][:5] for c in range(4)])
    found = []
    for turn in range(3):
        labels, features = y.clone(), x.clone()
        if turn == 1:
            labels[:80] = (labels[:80] + 1) % 4
        if turn == 2:
            features[:80] = 100 * torch.randn(80, 24, generator=torch.Generator().manual_seed(1))
        pack = SimpleNamespace(labels=labels.numpy(), card=SimpleNamespace(classes=tuple("abcd")))
        data: Any = SimpleNamespace(pack=pack, split=SimpleNamespace(pool=pool, test=test, hash="x"), ground=None)
        job = Job(data, Store(tmp_path), torch.device("cpu"), np.sort(train), test, 0, "clean", False)
        bank = FeatureBank(tmp_path / str(turn), 240, lambda rows, features=features: features[rows])
        figures, head, _ = fitted(job, auto(), [bank])
        assert head is not None
        found.append((figures["details"], head.state_dict(), figures["oa"]))
    for details, state, oa in found[1:]:
        assert details == found[0][0] and oa < found[0][2] - 0.3
        assert all(torch.equal(state[k], v) for k, v in found[0][1].items())


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    p = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = calibration(p.numpy(), y.numpy())
    assert found["ece"] == pytest.approx(float(metrics.multiclass_calibration_error(p, y, 5, n_bins=BINS)), abs=1e-5)
    assert found["nll"] == pytest.approx(log_loss(y, p.double().numpy()), abs=1e-5)
    hot = np.eye(5)[y]
    assert found["brier"] == pytest.approx(float(((p.numpy() - hot) ** 2).sum(1).mean()), abs=1e-6)
    assert sum(found["bins"]["count"]) == 400 and found["bins"]["confidence"][0] is None
    draws = np.random.default_rng(0)
    of_perfect = [
        calibration(p.numpy(), np.array([draws.choice(5, p=row / row.sum()) for row in p.double().numpy()]))["ece"]
        for _ in range(40)
    ]
    assert found["chance"] == pytest.approx(np.mean(of_perfect), rel=0.1)
    sure = calibration(np.eye(5)[y], y.numpy())
    assert (sure["ece"], sure["brier"], sure["nll"]) == (0, 0, 0)
    assert np.isfinite(calibration(np.eye(5)[(y + 1) % 5], y.numpy())["nll"])
