"""Nearest neighbours against loops and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from rsssl.evaluation import blocks
from rsssl.evaluation.features import FeatureBank
from rsssl.evaluation.knn import KNN
from rsssl.jobs import configured

new_knn = partial(configured, "evaluate", "knn")  # as conf/evaluate/knn.yaml has it, but for arguments

Make = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def by_hand(bank: np.ndarray, labels: np.ndarray, new: np.ndarray, classes: int, k: int, t: float | None) -> np.ndarray:
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    out = np.zeros((len(new), classes))
    for i, row in enumerate(new):
        sims = [float(row @ b) / float(np.linalg.norm(row)) for b in bank]
        for j in sorted(range(len(bank)), key=lambda j: (-sims[j], j))[:k]:
            out[i, labels[j]] += 1.0 if t is None else np.exp(sims[j] / t)
    return out / out.sum(1, keepdims=True)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 7, 20, 500])
def test_equals_brute_force(make: Make, weighted: bool, k: int) -> None:
    x, y = make(6, 10, classes=4, seed=1)
    new, _ = make(10, 10, classes=4, seed=1, draw=1)
    got = new_knn(k=k, weighted=weighted).fit(x, y, 5, seed=0).scores(new)  # class 4 has no labels
    want = by_hand(x.double().numpy(), y.numpy(), new.double().numpy(), 5, k, 0.07 if weighted else None)
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert (got[:, 4] == 0).all()


def test_majority_equals_scikit_learn(make: Make) -> None:
    x, y = make(30, 16, classes=5, seed=2)
    new, _ = make(50, 16, classes=5, seed=2, draw=1)
    theirs = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(x.numpy(), y.numpy())
    ours = new_knn(k=9, weighted=False).fit(x, y, 5, seed=0).scores(new)
    np.testing.assert_array_equal(ours.argmax(1), theirs.predict(new.numpy()))
    np.testing.assert_allclose(ours, theirs.predict_proba(new.numpy()), atol=1e-6)


def test_ties_go_to_the_first_given() -> None:
    bank = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]])
    labels = torch.tensor([2, 2, 0, 1, 1, 1, 0])
    scores = new_knn(k=3, weighted=False).fit(bank, labels, 3, seed=0).scores(torch.tensor([[2.0, 0.0], [0.5, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[1 / 3, 0, 2 / 3]] * 2))
    even = new_knn(k=4, weighted=False).fit(bank[:4], torch.tensor([2, 2, 1, 1]), 3, seed=0).scores(bank[:1])
    assert int(even.argmax()) == 1  # two votes each: the lower class


def test_blocks_make_no_difference(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make(20, 16, classes=3, seed=3)
    new, _ = make(20, 16, classes=3, seed=3, draw=1)
    model = new_knn().fit(x, y, 3, seed=0)
    whole = model.scores(new)
    monkeypatch.setattr(blocks, "BLOCK", 7 * len(x))
    torch.testing.assert_close(model.scores(new), whole)


def test_centred_votes_ignore_a_common_offset(make: Make) -> None:
    x, y = make(20, 32, classes=5, seed=4)
    new, _ = make(100, 32, classes=5, seed=4, draw=1)
    centred = new_knn(centre=True).fit(x + 100, y, 5, 0).scores(new + 100)
    torch.testing.assert_close(centred, new_knn(centre=True).fit(x, y, 5, 0).scores(new), atol=2e-3, rtol=0)
    assert not torch.allclose(centred, new_knn().fit(x + 100, y, 5, 0).scores(new + 100), atol=0.05)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="k must be"):
        KNN(0, True, 0.07, False)


def test_blocks_of_the_remembered_images_make_no_difference_either(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image stands there three times, under three classes, in blocks of their own: of equal ones the first.

    Cosines of vectors of 16 quarters are exact in whatever order they are summed, so that equal ones are equal."""
    x = make(20, 16, classes=3, seed=3)[0].sign() / 4
    new = make(20, 16, classes=3, seed=3, draw=1)[0].sign() / 4
    bank, labels = x.repeat(3, 1), torch.arange(3).repeat_interleave(len(x))
    for k in (1, 2, 5, 61, 180):
        model = new_knn(k=k).fit(bank, labels, 3, seed=0)
        monkeypatch.setattr(blocks, "SPAN", 1 << 16)
        whole = model.scores(new)
        monkeypatch.setattr(blocks, "SPAN", 17)
        torch.testing.assert_close(model.scores(new), whole)
        if k == 1:
            assert whole[:, 0].tolist() == [1.0] * len(new)


def test_features_on_the_disk_give_the_same_votes(make: Make, tmp_path: Path) -> None:
    x, y = make(20, 16, classes=3, seed=3)
    new, _ = make(20, 16, classes=3, seed=3, draw=1)
    kept, others = (
        FeatureBank(tmp_path / name, len(of), lambda rows, of=of: of[rows]).kept(np.arange(len(of)))
        for name, of in (("x", x), ("new", new))
    )
    for centre in (False, True):
        expected = new_knn(centre=centre).fit(x, y, 3, seed=0)
        found = new_knn(centre=centre).fit(kept, y, 3, seed=0)
        torch.testing.assert_close(found.scores(others), expected.scores(new))
        torch.testing.assert_close(found.held_out(kept, y, 3, 0), expected.held_out(x, y, 3, 0))
