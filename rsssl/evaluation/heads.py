"""What a classifier is once it is fitted: a module from features to class probabilities, and the base of all probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import normalize

from rsssl.evaluation.spaces import PoolSpace


class Head(nn.Module):
    """Features (B, D) -> class probabilities (B, K)."""

    layer: tuple[Tensor, Tensor] | None = None  # weight (K, D) and bias (K,) of one that is a linear layer
    exportable = True  # False: decides by code that no exported program can hold

    def settings(self) -> dict[str, Any]:
        """What `head_from` needs beside the tensors, as JSON; "kind" says which head it is."""
        raise NotImplementedError(f"{type(self).__name__} must define settings()")


class LinearHead(Head):
    """A linear layer, then the softmax.

    With `regression` (ridge regression on one-hot labels estimates probabilities directly) values below zero become
    zero and the rest is divided by its sum.

    Args:
        weight: (K, D).
        bias: (K,).
        regression: whether the layer's output estimates probabilities and not their logarithms.
    """

    def __init__(self, weight: Tensor, bias: Tensor, regression: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.regression = nn.Parameter(weight.float()), nn.Parameter(bias.float()), regression

    @property
    def layer(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.weight.detach(), self.bias.detach()

    def settings(self) -> dict[str, Any]:
        return {"kind": "regression" if self.regression else "linear"}

    def forward(self, features: Tensor) -> Tensor:
        return self.probabilities(F.linear(features.float(), self.weight, self.bias))

    def probabilities(self, scores: Tensor) -> Tensor:
        """The layer's output (B, K) as probabilities."""
        if not self.regression:
            return scores.softmax(1)
        share = scores.clamp_min(1e-6)
        return share / share.sum(1, keepdim=True)


class NeighbourHead(Head):
    """The classes' shares of the votes of the k most similar labelled images. Its settings are those of `KNN`.

    Args:
        settings: k, weighted, temperature, centre and classes (K, their number).
        bank: (n, D) the labelled features, less the mean, of unit length.
        labels: (n,) int64.
        mean: (D,) what is subtracted from features first.
    """

    exportable = False
    bank: Tensor
    labels: Tensor
    mean: Tensor

    def __init__(self, settings: Mapping[str, Any], bank: Tensor, labels: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.arguments = dict(settings)
        for name, value in (("bank", bank), ("labels", labels), ("mean", mean)):
            self.register_buffer(name, value)

    def settings(self) -> dict[str, Any]:
        return {"kind": "neighbours"} | self.arguments

    def forward(self, features: Tensor) -> Tensor:
        return self.votes(features, features.new_empty(len(features), len(self.bank), dtype=torch.float32))

    def votes(self, features: Tensor, similarity: Tensor) -> Tensor:
        """The same, in memory that is given: similarity (B, n) is overwritten."""
        n, k = len(self.bank), min(self.arguments["k"], len(self.bank))
        torch.mm(normalize(features.float() - self.mean, dim=1), self.bank.T, out=similarity)
        value, index = similarity.topk(min(k + 1, n), dim=1)
        if k < n:  # topk leaves open which of equal neighbours it takes: settle those rows by a stable sort
            tied = value[:, k] == value[:, k - 1]
            if tied.any():
                order = similarity[tied].sort(dim=1, descending=True, stable=True).indices
                index[tied] = order[:, : k + 1]
            value, index = similarity.gather(1, index[:, :k]), index[:, :k]
        weight = torch.ones_like(value)
        if self.arguments["weighted"]:  # relative to the nearest: the shares stay the same and nothing overflows
            weight = ((value - value[:, :1]) / self.arguments["temperature"]).exp()
        votes = weight.new_zeros(len(features), self.arguments["classes"])
        votes.scatter_add_(1, self.labels[index], weight)
        return votes / votes.sum(1, keepdim=True)


class SpacedHead(Head):
    """The votes of the nearest neighbours in the space of a pool.

    Args:
        space: features to the space.
        near: votes there.
    """

    exportable = False

    def __init__(self, space: PoolSpace, near: NeighbourHead) -> None:
        super().__init__()
        self.space, self.near = space, near

    def settings(self) -> dict[str, Any]:
        return self.near.settings() | {"kind": "propagated"}

    def forward(self, features: Tensor) -> Tensor:
        votes: Tensor = self.near(self.space(features))
        return votes


def head_from(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Head:
    """The head that `settings()` and a state dict describe."""
    arguments = dict(settings)
    kind = arguments.pop("kind")
    if kind == "neighbours":
        return NeighbourHead(arguments, **tensors)
    if kind == "propagated":
        space, near = (
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            for prefix in ("space.", "near.")
        )
        return SpacedHead(PoolSpace(**space), NeighbourHead(arguments, **near))
    return LinearHead(tensors["weight"], tensors["bias"], kind == "regression")


class Probe:
    """Base of the classifiers on frozen features, which `evaluate=` names."""

    trains_network = False  # True: the whole network is trained, not a classifier on its features
    divided = False  # True: the ranks divide the work of `scores` and call it together
    uses_pool = False  # True: `fit` takes the pool's images without a label too, `pool` (N, D)
    paper_head = False  # True: protocol=paper trains this one as the published code does
    details: dict[str, Any]

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> Probe:
        """Fits to features (n, D) and labels (n,) int64."""
        raise NotImplementedError(f"{type(self).__name__} must define fit(features, labels, n_classes, seed)")

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to scores (m, n_classes), of which the largest is the class."""
        raise NotImplementedError(f"{type(self).__name__} must define scores(features)")

    def head(self) -> Head:
        """What was fitted, as the classifier that is kept."""
        raise NotImplementedError(f"{type(self).__name__} must define head()")

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Features (m, D) to class probabilities (m, n_classes), those of the classifier that is kept."""
        probabilities: Tensor = self.head()(features)
        return probabilities
