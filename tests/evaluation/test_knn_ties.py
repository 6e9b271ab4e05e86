"""Nearest neighbours against all pairs in double precision, where errors hide: ties, chunks, absent classes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from rsssl.evaluation import blocks
from rsssl.evaluation.metrics import confusion, scores
from rsssl.jobs import configured

new_knn = partial(configured, "evaluate", "knn")  # as conf/evaluate/knn.yaml has it, but for arguments

N, M, D, CLASSES = 40, 29, 24, 5


def features(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def by_all_pairs(bank: np.ndarray, labels: np.ndarray, new: np.ndarray, k: int) -> np.ndarray:
    """The classes' shares of the weighted votes; of equal similarities the first given."""
    unit, units = new / np.linalg.norm(new, axis=1)[:, None], bank / np.linalg.norm(bank, axis=1)[:, None]
    out = np.zeros((len(new), CLASSES))
    for row, similarity in zip(out, (unit[:, None] * units[None]).sum(2).round(9), strict=True):
        for j in np.argsort(-similarity, kind="stable")[:k]:
            row[labels[j]] += np.exp(similarity[j] / 0.07)
    return out / out.sum(1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 2, 7, 28, 29, 1000])  # of 29: the last chunk of one, of one row less, all at once
@pytest.mark.parametrize("k", [1, 5, 2 * N - 1, 2 * N, 5 * N])
def test_chunks_and_ties_do_not_show(rows: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every labelled image is there twice, under two classes, so that every odd k cuts through a tie."""
    base, new = features(N, 0), features(M, 1)
    bank = torch.cat([base, base])[torch.from_numpy(np.random.default_rng(2).permutation(2 * N))]
    labels = torch.arange(2 * N) % 3  # classes 3 and 4 have no label
    monkeypatch.setattr(blocks, "BLOCK", rows * len(bank))
    model = new_knn(k=k).fit(bank, labels, CLASSES, seed=0)
    got = model.scores(new)
    np.testing.assert_allclose(
        got, by_all_pairs(bank.double().numpy(), labels.numpy(), new.double().numpy(), k), atol=1e-4
    )
    assert torch.equal(got, model.scores(new)), "ties fall the same way each time"
    assert model.details["k"] == min(k, 2 * N)


def test_classes_absent_from_the_test_or_from_the_labels() -> None:
    """Class 3 is tested and has no label, class 4 has labels and is not tested: figures all the same."""
    centres = 5 * features(CLASSES, 3)
    train = torch.tensor([0, 1, 2, 4]).repeat_interleave(6)
    test = torch.tensor([0, 1, 2, 3]).repeat_interleave(4)
    model = new_knn(k=5).fit(centres[train] + features(24, 4), train, CLASSES, seed=0)
    predicted = model.scores(centres[test] + features(16, 5)).argmax(1)
    assert predicted[:12].tolist() == test[:12].tolist() and 3 not in predicted.tolist()
    found = scores(confusion(test.numpy(), predicted.numpy(), CLASSES))
    assert found["oa"] == found["aa"] == 0.75
    assert np.isnan(found["per_class"]).tolist() == [False] * 4 + [True]
