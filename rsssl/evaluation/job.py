"""One few-label evaluation: which images are labelled, which are tested on, and how predictions become figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.data.prepared import Data
from rsssl.engine.store import Store
from rsssl.evaluation.metrics import calibration, confusion, scores


@dataclass(frozen=True)
class Job:
    """What every kind of evaluation starts from.

    Args:
        data: the packed dataset with its split.
        store: where features are kept.
        device: where networks compute.
        train: (n,) labelled rows of the pack.
        test: (m,) rows of the pack that are tested on.
        seed: of the classifier.
        protocol: clean, validation or paper.
        tta: average over the eight flips and quarter turns of the test images.
    """

    data: Data
    store: Store
    device: torch.device
    train: np.ndarray
    test: np.ndarray
    seed: int
    protocol: str
    tta: bool

    @property
    def n_classes(self) -> int:
        return len(self.data.pack.card.classes)

    def labels(self, rows: np.ndarray) -> Tensor:
        """Classes (n,) int64 of rows of the pack."""
        return torch.from_numpy(self.data.pack.labels[rows])

    def selection_half(self) -> np.ndarray:
        """protocol=paper only: the positions of the half of the test images on which the published code chooses its
        epoch."""
        order = rng.permutation(rng.fold("paper selection", self.data.split.hash), len(self.test))
        return np.sort(order[: len(self.test) // 2])

    def figures(self, predicted: Tensor) -> dict[str, Any]:
        """The metrics of one prediction (m,) as they stand in results.json."""
        matrix = confusion(self.data.pack.labels[self.test], predicted.numpy(), self.n_classes)
        values = scores(matrix)
        recalls = {
            name: None if np.isnan(recall) else float(recall)
            for name, recall in zip(self.data.pack.card.classes, values["per_class"], strict=True)
        }
        return {
            "oa": float(values["oa"]),
            "aa": float(values["aa"]),
            "kappa": float(values["kappa"]),
            "per_class": recalls,
            "confusion": matrix.tolist(),
        }

    def trust(self, probabilities: Tensor) -> dict[str, Any]:
        """How far class probabilities (m, n_classes) of the test images can be trusted."""
        return calibration(probabilities.numpy(), self.data.pack.labels[self.test])
