"""Every figure against scikit-learn's, and what happens at the edges."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from rsssl.evaluation.metrics import confusion, scores


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    truth = rng.permutation(np.r_[np.arange(n), rng.integers(0, n, 300)])
    pred = np.where(rng.random(len(truth)) < 0.6, truth, rng.integers(0, n, len(truth)))
    matrix = confusion(truth, pred, n)
    got = scores(matrix)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(truth, pred, labels=range(n)))
    assert got["oa"] == pytest.approx(sk.accuracy_score(truth, pred), abs=1e-12)
    assert got["aa"] == pytest.approx(sk.balanced_accuracy_score(truth, pred), abs=1e-12)
    assert got["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, pred), abs=1e-12)
    np.testing.assert_allclose(got["per_class"], sk.recall_score(truth, pred, average=None), atol=1e-12)


def test_class_absent_from_the_truth_does_not_count() -> None:
    truth, pred = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])  # class 1 is only predicted, class 3 nowhere
    got = scores(confusion(truth, pred, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of the predicted class
        expected = sk.balanced_accuracy_score(truth, pred)
    assert got["aa"] == pytest.approx(expected) == 0.75
    assert got["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, pred))
    np.testing.assert_array_equal(got["per_class"], [0.5, np.nan, 1.0, np.nan])


def test_aa_is_recall_and_not_precision() -> None:
    got = scores(np.array([[9, 0], [1, 0]]))  # recalls 1 and 0, precisions 0.9 and none
    assert got["aa"] == 0.5 and got["oa"] == 0.9


def test_single_class() -> None:
    got = scores(confusion(np.zeros(5, int), np.zeros(5, int), 1))
    assert got["oa"] == got["aa"] == 1.0 and np.isnan(got["kappa"])
    got = scores(confusion(np.zeros(4, int), np.array([0, 0, 1, 1]), 2))
    assert got["oa"] == got["aa"] == 0.5 and got["kappa"] == 0.0


def test_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ValueError, match="y_pred has labels"):
        confusion(np.array([0, 1]), np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="y_true has labels"):
        confusion(np.array([-1, 1]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="one length"):
        confusion(np.array([0, 1]), np.array([0]), 2)
    with pytest.raises(ValueError, match="no test sample"):
        scores(np.zeros((3, 3), int))


def test_needs_no_torch() -> None:
    code = "import sys; from rsssl.evaluation import metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
