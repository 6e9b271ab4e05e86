"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rsssl.engine.distributed import collect, rank, world_size
from rsssl.evaluation.heads import NeighbourHead, Probe
from rsssl.evaluation.standardise import check_training_set

BLOCK = 16 << 20  # similarities in memory at a time: some hundred rows, as products of fewer are slow


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

    def __init__(self, k: int, weighted: bool, temperature: float, centre: bool) -> None:
        if k < 1 or temperature <= 0:
            raise ValueError(f"k must be at least 1 (it is {k}) and the temperature positive (it is {temperature})")
        self.k, self.weighted, self.temperature, self.centre = k, weighted, temperature, centre
        self.details: dict[str, Any] = {}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> KNN:
        """Remember features (n, D) and labels (n,); nothing is random, the seed is not used."""
        check_training_set(features, labels, n_classes)
        mean = features.float().mean(0) if self.centre else features.new_zeros(features.shape[1]).float()
        bank = normalize(features.float() - mean, dim=1)  # (n, D)
        names = ("k", "weighted", "temperature", "centre")
        settings = {name: getattr(self, name) for name in names} | {"classes": n_classes}
        self._head = NeighbourHead(settings, bank, labels, mean)
        self.details = {"k": min(self.k, len(labels)), "weighted": self.weighted, "centre": self.centre}
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to the classes' shares of the votes (m, n_classes) float32, rows of sum 1.

        Memory beyond the features' own does not grow with m. Under torchrun all ranks call it together and divide the
        work, in blocks that do not depend on their number.
        """
        n = len(self._head.bank)
        rows = max(1, BLOCK // n)
        space = features.new_empty(min(rows, len(features)), n, dtype=torch.float32)
        blocks = features.split(rows)
        votes_here = [self._head.votes(block, space[: len(block)]) for block in blocks[rank() :: world_size()]]
        ranks = collect(votes_here)
        votes = [ranks[i % len(ranks)][i // len(ranks)] for i in range(len(blocks))]
        return torch.cat(votes) if len(features) else self._head(features)

    def probabilities(self, features: Tensor) -> Tensor:
        """The same: its scores are probabilities, and the ranks divide the work."""
        return self.scores(features)

    def head(self) -> NeighbourHead:
        return self._head
