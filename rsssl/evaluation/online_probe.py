"""The online probe: how well a few labels separate the pool's features while pre-training. It is logged and chooses
nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rsssl import rng
from rsssl.data.prepared import Data
from rsssl.data.rows import Rows
from rsssl.evaluation.base import Probe
from rsssl.evaluation.features import Extractor
from rsssl.models.preprocess import Preprocess

IMAGES = 1000


class OnlineProbe:
    """Ridge classification of one half of a slice of the pool from the other half; the test set is not touched.

    Args:
        backbone: the network in training; it is put back into training mode by the loop.
        data: the dataset whose pool is looked at; without labels the probe is not `usable`.
        preprocess: how the evaluation will see images.
        probe: the classifier.
        device: where the features are computed.
    """

    def __init__(
        self, backbone: nn.Module, data: Data, preprocess: Preprocess, probe: Probe, device: torch.device
    ) -> None:
        labels, pool = data.pack.labels, data.split.pool
        key = rng.fold("online probe", data.split.hash)
        if isinstance(pool, Rows):  # of a large dataset, a slice that has labels enough where every 64th image has one
            pool = pool[rng.Order(key, len(pool))[: 64 * IMAGES]]
        pool = pool[labels[pool] >= 0]
        order = rng.permutation(key, len(pool))
        rows = pool[order[:IMAGES]]
        self.fit_rows, self.test_rows = np.sort(rows[::2]), np.sort(rows[1::2])
        self.usable = len(self.test_rows) >= 10 and len(np.unique(labels[rows])) > 1
        self.labels, self.n_classes = labels, len(data.pack.card.classes)
        self.extract = Extractor(lambda: backbone, data.pack, preprocess, device, trained=True)
        self.probe = probe

    def __call__(self, step: int = 0) -> dict[str, float]:
        """{"probe_oa": overall accuracy in 0..1}."""
        fit, test = self._features(self.fit_rows), self._features(self.test_rows)
        probe = self.probe.fit(fit, torch.from_numpy(self.labels[self.fit_rows]), self.n_classes, seed=0)
        predicted = probe.scores(test).argmax(1).numpy()
        return {"probe_oa": float((predicted == self.labels[self.test_rows]).mean())}

    def _features(self, rows: np.ndarray) -> torch.Tensor:
        return torch.cat([self.extract(rows[i : i + 250]).float().cpu() for i in range(0, len(rows), 250)])
