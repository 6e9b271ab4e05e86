"""Accuracy figures of scene classification from one confusion matrix, and how far probabilities can be trusted. Numpy
only: importing this costs nothing."""

from __future__ import annotations

from typing import Any, TypedDict

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


BINS = 15  # of the calibration error: Guo et al. 2017


def calibration(probabilities: np.ndarray, y_true: np.ndarray) -> dict[str, Any]:
    """How far class probabilities can be trusted.

    Args:
        probabilities: (m, n), rows of sum 1.
        y_true: (m,) integer classes in 0..n-1.

    Returns:
        ece: expected calibration error, 0..1: the mean difference of the largest probability and the accuracy in bins
            of equal width (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, equation 3).
        chance: what ece would be on average if the probabilities were exact, for the bins then hold few images.
        brier: mean squared distance from the truth's one-hot vector, 0..2 (Brier 1950).
        nll: mean negative log-likelihood; a probability below 1e-12 counts as that.
        bins: for each bin its count, mean confidence and accuracy, None where it is empty.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(y_true)
    confidence, hit = p.max(1), p.argmax(1) == y
    of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(of, minlength=BINS)
    sums = [np.bincount(of, weights=values, minlength=BINS) for values in (confidence, hit)]
    means = [[float(s / n) if n else None for s, n in zip(each, count, strict=True)] for each in sums]
    likely = p[np.arange(len(y)), y]
    noise = np.bincount(of, weights=confidence * (1 - confidence), minlength=BINS)  # variance of the hits of each bin
    return {
        "ece": float(np.abs(sums[0] - sums[1]).sum() / len(y)),
        "chance": float(np.sqrt(2 / np.pi * noise).sum() / len(y)),  # as if the hits were normally distributed
        "brier": float((np.square(p).sum(1) - 2 * likely + 1).mean()),
        "nll": float(-np.log(np.maximum(likely, 1e-12)).mean()),
        "bins": {"count": count.tolist(), "confidence": means[0], "accuracy": means[1]},
    }
