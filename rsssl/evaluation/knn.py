"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from rsssl.evaluation.base import Probe
from rsssl.evaluation.blocks import in_blocks
from rsssl.evaluation.heads import NeighbourHead
from rsssl.evaluation.on_disk import Features, in_parts, mean_of
from rsssl.evaluation.standardise import check_training_set


class KNN(Probe):
    """Votes of the k most similar labelled images, by cosine similarity.

    Weighted votes count exp(similarity / temperature), after Wu et al. 2018 (Instance Discrimination), whose
    temperature 0.07 is the custom; plain votes count 1. Of neighbours equally near, the one given first is taken; of
    classes with equal votes, the lower number.

    Args:
        k: neighbours; all labelled images when there are fewer.
        weighted: weighted votes, or a plain majority.
        temperature: of the weights.
        centre: subtract the labelled images' mean first, which features that are all positive profit from.
    """

    divided = True
    on_disk = True

    def __init__(self, k: int, weighted: bool, temperature: float, centre: bool) -> None:
        if k < 1 or temperature <= 0:
            raise ValueError(f"k must be at least 1 (it is {k}) and the temperature positive (it is {temperature})")
        self.k, self.weighted, self.temperature, self.centre = k, weighted, temperature, centre
        self.details: dict[str, Any] = {}

    def fit(self, features: Features, labels: Tensor, n_classes: int, seed: int) -> KNN:
        """Remember features (n, D) and labels (n,); nothing is random, the seed is not used."""
        check_training_set(features, labels, n_classes)
        mean = mean_of(features) if self.centre else torch.zeros(features.shape[1])
        bank, stop = torch.empty(*features.shape), 0  # (n, D), the one thing in memory that grows with them
        for part in in_parts(features):
            start, stop = stop, stop + len(part)
            bank[start:stop] = normalize(part.float() - mean, dim=1)
        settings = {"k": self.k, "temperature": self.temperature if self.weighted else None, "sharpness": 1.0}
        self._head = NeighbourHead(settings, bank, one_hot(labels, n_classes).float(), mean)
        self.details = {"k": min(self.k, len(labels)), "weighted": self.weighted, "centre": self.centre}
        return self

    def scores(self, features: Features) -> Tensor:
        """Features (m, D) to the classes' shares of the votes (m, n_classes) float32, rows of sum 1.

        Under torchrun all ranks call it together and divide the work.
        """
        return in_blocks(self._head.votes, features, len(self._head.bank), divided=True)

    def head(self) -> NeighbourHead:
        return self._head
