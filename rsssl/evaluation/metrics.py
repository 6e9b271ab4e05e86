"""Accuracy figures of scene classification, all from one confusion matrix. Numpy only: importing this costs nothing."""

from __future__ import annotations

from typing import TypedDict

import numpy as np


class Scores(TypedDict):
    """What `scores` returns; fractions in 0..1 (kappa: -1..1)."""

    oa: float
    aa: float
    kappa: float
    per_class: np.ndarray  # (n,) recall, nan for a class that has no test sample


def confusion(y_true: np.ndarray, y_pred: np.ndarray, n: int) -> np.ndarray:
    """The confusion matrix (n, n) int64: row = true class, column = predicted class.

    Args:
        y_true: (m,) integer classes in 0..n-1.
        y_pred: (m,) integer classes in 0..n-1.
        n: number of classes.

    Raises:
        ValueError: for labels of unequal number or outside 0..n-1 (-1, "unlabelled", included).
    """
    true, pred = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != pred.shape:
        raise ValueError(f"y_true {true.shape} and y_pred {pred.shape} must be two lists of one length")
    for name, labels in (("y_true", true), ("y_pred", pred)):
        if labels.size and not (labels.min() >= 0 and labels.max() < n):
            raise ValueError(f"{name} has labels {labels.min()}..{labels.max()}; they must be in 0..{n - 1}")
    cells = true.astype(np.int64) * n + pred.astype(np.int64)
    return np.bincount(cells, minlength=n * n).reshape(n, n)


def scores(confusion: np.ndarray) -> Scores:
    """Overall accuracy, average accuracy, Cohen's kappa and the recall of each class.

    aa is the mean recall (producer's accuracy) over the classes present in the truth: a class without test samples
    has no recall and does not count. kappa (Cohen 1960) is agreement beyond chance; where chance alone agrees fully
    (truth and predictions all of one class) it is 0 / 0, and nan here as in scikit-learn.

    Args:
        confusion: (n, n), rows the true classes.

    Raises:
        ValueError: for an empty matrix of counts.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    total = matrix.sum()
    if total == 0:
        raise ValueError("there is no test sample to score")
    truth, predicted, hits = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    recall = np.full(len(matrix), np.nan)
    np.divide(hits, truth, out=recall, where=truth > 0)
    observed = hits.sum() / total
    chance = float(truth @ predicted) / total**2
    kappa = (observed - chance) / (1 - chance) if chance < 1 else float("nan")
    return {"oa": float(observed), "aa": float(np.nanmean(recall)), "kappa": float(kappa), "per_class": recall}
