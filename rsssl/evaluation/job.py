"""One few-label evaluation: which images are labelled, which are tested on, and how predictions become figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.data.ground import together
from rsssl.data.prepared import Data
from rsssl.data.split import labelled_subset
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

    def groups(self) -> Tensor | None:
        """(n,) which of the labelled images, in the order of `train`, are of one place; None where nobody knows."""
        if self.data.ground is None or self.data.block is None:
            return None
        return torch.from_numpy(together(self.data.ground.rows(self.train), self.data.block))

    @property
    def n_drawn(self) -> int | None:
        """How many points and polygons the labelled images have their classes of; None where none were drawn."""
        if self.data.ground is None:
            return None
        feature = self.data.ground.feature[self.train]
        return len(np.unique(feature[feature >= 0])) or None

    def at_random(self, ts: int | float | str) -> Job:
        """The same evaluation with a test set drawn without regard to where images lie: too good, to be shown."""
        data = self.data.at_random()
        pack = data.pack
        train = labelled_subset(pack.labels, pack.paths, data.split.pool, ts, self.seed, pack.card.classes)
        return replace(self, data=data, train=train, test=np.asarray(data.split.test))

    def labels(self, rows: np.ndarray) -> Tensor:
        """Classes (n,) int64 of rows of the pack."""
        return torch.from_numpy(self.data.pack.labels[rows])

    def selection_half(self) -> np.ndarray:
        """protocol=paper only: the positions of the half of the test images on which the published code chooses its
        epoch."""
        order = rng.permutation(rng.fold("paper selection", self.data.split.hash), len(self.test))
        return np.sort(order[: len(self.test) // 2])

    @property
    def crossed(self) -> bool:
        """Whether there is no test set, and cross-validation among the labelled images tests."""
        return not len(self.test)

    @property
    def split(self) -> str:
        """How test and training images are divided, in words."""
        apart = "at random" if self.data.ground is None else f"{self.data.block:.0f} m apart"
        return f"cross-validation, {apart}" if self.crossed else apart

    def figures(self, predicted: Tensor, truth: Tensor | None = None) -> dict[str, Any]:
        """The metrics of one prediction (m,) of images of the classes truth (m,), by default the test images, as they
        stand in results.json."""
        truth = self.labels(self.test) if truth is None else truth
        matrix = confusion(truth.numpy(), predicted.numpy(), self.n_classes)
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

    def covered(self, sets: Tensor, truth: Tensor) -> dict[str, Any]:
        """How often sets of classes (m, n_classes), bool, hold the true ones (m,), in all and by class, and how many
        classes they hold on average."""
        classes = self.data.pack.card.classes
        hit = sets.gather(1, truth[:, None])[:, 0].double()
        per_class = {name: float(hit[truth == c].mean()) for c, name in enumerate(classes) if (truth == c).any()}
        return {"coverage": float(hit.mean()), "size": float(sets.sum(1).double().mean()), "per_class": per_class}

    def trust(self, probabilities: Tensor, truth: Tensor | None = None) -> dict[str, Any]:
        """How far class probabilities (m, n_classes) can be trusted, of images as in `figures`."""
        truth = self.labels(self.test) if truth is None else truth
        return calibration(probabilities.numpy(), truth.numpy())
