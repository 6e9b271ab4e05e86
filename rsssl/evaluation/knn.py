"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rsssl.engine.distributed import collect, rank, world_size
from rsssl.evaluation.standardise import check_training_set

BLOCK = 16 << 20  # similarities in memory at a time: some hundred rows, as products of fewer are slow


class KNN:
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

    def __init__(self, k: int = 20, weighted: bool = True, temperature: float = 0.07, centre: bool = False) -> None:
        if k < 1 or temperature <= 0:
            raise ValueError(f"k must be at least 1 (it is {k}) and the temperature positive (it is {temperature})")
        self.k, self.weighted, self.temperature, self.centre = k, weighted, temperature, centre
        self.details: dict[str, Any] = {}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> KNN:
        """Remember features (n, D) and labels (n,); nothing is random, the seed is not used."""
        check_training_set(features, labels, n_classes)
        self._mean = features.float().mean(0) if self.centre else features.new_zeros(features.shape[1]).float()
        self._bank = normalize(features.float() - self._mean, dim=1)  # (n, D)
        self._labels, self._classes = labels, n_classes
        self.details = {"k": min(self.k, len(labels)), "weighted": self.weighted, "centre": self.centre}
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to the classes' shares of the votes (m, n_classes) float32, rows of sum 1.

        Memory beyond the features' own does not grow with m. Under torchrun all ranks call it together and divide the work,
        in blocks that do not depend on their number.
        """
        n = len(self._bank)
        rows = max(1, BLOCK // n)
        space = features.new_empty(min(rows, len(features)), n, dtype=torch.float32)
        blocks = features.split(rows)
        own = [self._votes(block, space[: len(block)]) for block in blocks[rank() :: world_size()]]
        ranks = collect(own)
        votes = [ranks[i % len(ranks)][i // len(ranks)] for i in range(len(blocks))]
        return torch.cat(votes) if len(features) else features.new_zeros(0, self._classes)

    def votes(self, features: Tensor) -> Tensor:
        """The same as `scores` for a few features (B, D), by this process alone."""
        return self._votes(features, features.new_empty(len(features), len(self._bank), dtype=torch.float32))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What was fitted, as plain arguments and tensors; `of_state` is the way back."""
        arguments = {
            "k": self.k,
            "weighted": self.weighted,
            "temperature": self.temperature,
            "centre": self.centre,
            "classes": self._classes,
        }
        return arguments, {"bank": self._bank, "labels": self._labels, "mean": self._mean}

    @classmethod
    def of_state(cls, arguments: dict[str, Any], tensors: dict[str, Tensor]) -> KNN:
        """The fitted classifier that `state` described."""
        made = cls(*(arguments[name] for name in ("k", "weighted", "temperature", "centre")))
        made._bank, made._labels, made._mean = tensors["bank"], tensors["labels"], tensors["mean"]
        made._classes = arguments["classes"]
        return made

    def _votes(self, features: Tensor, similarity: Tensor) -> Tensor:
        """The votes for B features; similarity (B, n) is filled."""
        n, k = len(self._bank), min(self.k, len(self._bank))
        torch.mm(normalize(features.float() - self._mean, dim=1), self._bank.T, out=similarity)
        value, index = similarity.topk(min(k + 1, n), dim=1)
        if k < n:  # topk leaves open which of equal neighbours it takes: settle those rows by a stable sort
            tied = value[:, k] == value[:, k - 1]
            if tied.any():
                order = similarity[tied].sort(dim=1, descending=True, stable=True).indices
                index[tied] = order[:, : k + 1]
            value, index = similarity.gather(1, index[:, :k]), index[:, :k]
        # relative to the nearest: the shares stay the same and nothing overflows
        weight = ((value - value[:, :1]) / self.temperature).exp() if self.weighted else torch.ones_like(value)
        votes = weight.new_zeros(len(features), self._classes).scatter_add_(1, self._labels[index], weight)
        return votes / votes.sum(1, keepdim=True)
