"""Classifiers on frozen features, and the figures they are judged by.

Every classifier has `.fit(features (n, D), labels (n,), n_classes, seed) -> self`, `.scores(features (m, D)) ->
(m, n_classes)` and `.details`, a dict of what it chose. Names are imported when first used: the metrics alone
need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsssl.evaluation.classifier import SceneClassifier as SceneClassifier
    from rsssl.evaluation.finetune import NetworkTraining as NetworkTraining
    from rsssl.evaluation.knn import KNN as KNN
    from rsssl.evaluation.linear import fit_linear as fit_linear
    from rsssl.evaluation.metrics import confusion as confusion
    from rsssl.evaluation.metrics import scores as scores
    from rsssl.evaluation.paper_head import PaperHead as PaperHead
    from rsssl.evaluation.probe import LinearProbe as LinearProbe
    from rsssl.evaluation.ridge import RidgeProbe as RidgeProbe
    from rsssl.evaluation.standardise import Standardise as Standardise
    from rsssl.evaluation.statistics import image_statistics as image_statistics

_HOME = {
    "KNN": "knn",
    "LinearProbe": "probe",
    "NetworkTraining": "finetune",
    "PaperHead": "paper_head",
    "RidgeProbe": "ridge",
    "Standardise": "standardise",
    "SceneClassifier": "classifier",
    "confusion": "metrics",
    "fit_linear": "linear",
    "image_statistics": "statistics",
    "scores": "metrics",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
