"""Label propagation: what the labels do not say, the pool's unlabelled images may."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsssl.errors import UserError
from rsssl.evaluation.heads import NeighbourHead, Probe, SpacedHead
from rsssl.evaluation.knn import BLOCK
from rsssl.evaluation.spaces import PoolSpace
from rsssl.evaluation.standardise import check_training_set


class Propagation(Probe):
    """Labels spread over the graph of the pool's nearest neighbours; a new image has the classes of those near it.

    Every image of the pool is joined to its nearest neighbours in `PoolSpace`. The labels flow along the joins, F = a S
    F + (1 - a) Y with S the joins' weights exp(cosine / temperature), symmetric and normalised (Zhou et al. 2004,
    "Learning with local and global consistency", algorithm 1). Each class then has its flow divided by the sum of it,
    so that no class drowns another (class mass normalisation, Zhu, Ghahramani and Lafferty 2003, section 4, with equal
    shares: uneven pools lose less by it than by any estimate of theirs that was tried). A new image is given to its
    nearest neighbours' votes. Memory grows with the pool, and not with its square.

    Args:
        dimensions: of the space. neighbours: that an image is joined to, and that vote. temperature: of both weights.
        alpha: a, how far a label flows. iterations: of the flow.
    """

    uses_pool = True

    def __init__(self, dimensions: int, neighbours: int, temperature: float, alpha: float, iterations: int) -> None:
        if not 0 < alpha < 1 or temperature <= 0 or min(dimensions, neighbours, iterations) < 1:
            raise ValueError(
                f"alpha={alpha} must be between 0 and 1, temperature={temperature} positive, dimensions={dimensions}, "
                f"neighbours={neighbours} and iterations={iterations} at least 1"
            )
        self.dimensions, self.neighbours, self.temperature = dimensions, neighbours, temperature
        self.alpha, self.iterations = alpha, iterations
        self.details: dict[str, Any] = {}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int, pool: Tensor | None = None) -> Probe:
        """Fits to features (n, D), labels (n,) and the features (N, D) of the pool's unlabelled images.

        Raises:
            UserError: without a pool, and for NaN or infinity among the features.
        """
        check_training_set(features, labels, n_classes)
        if pool is None or len(pool) < 1:
            raise UserError("evaluate=propagate needs images without a label in the pool: type evaluate=linear")
        everything = torch.cat([features, pool])
        space = PoolSpace.of(everything, self.dimensions)
        z = space(everything)
        flow = self.flow(z, labels, n_classes)
        reached = flow.sum(1) > 0  # a part of the graph may hold no label
        classes = (flow / flow.sum(0).clamp_min(torch.finfo(flow.dtype).tiny)).argmax(1)
        classes[: len(labels)] = labels
        settings = {
            "k": self.neighbours,
            "weighted": True,
            "temperature": self.temperature,
            "centre": False,
            "classes": n_classes,
        }
        near = NeighbourHead(settings, z[reached], classes[reached], z.new_zeros(z.shape[1]))
        self._head = SpacedHead(space, near)
        shares = torch.bincount(classes[reached], minlength=n_classes) / reached.sum()
        self.details = {"pool": len(z), "reached": int(reached.sum()), "class_shares": shares.tolist()}
        return self

    def flow(self, z: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """How much of each class arrives at each of N images, z (N, d) of unit length, the first ones labelled:
        (N, K)."""
        index, cosine = nearest(z, self.neighbours)
        weight = ((cosine - 1) / self.temperature).exp()
        degree = weight.sum(1).index_add_(0, index.flatten(), weight.flatten())
        weight = weight * degree.rsqrt()[:, None] * degree.rsqrt()[index]
        source = torch.zeros(len(z), n_classes)
        source[torch.arange(len(labels)), labels] = 1
        flow = source
        for _ in range(self.iterations):
            flow = self.alpha * spread(flow, index, weight) + (1 - self.alpha) * source
        return flow

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to the classes' shares of the votes (m, n_classes) float32, rows of sum 1."""
        rows = max(1, BLOCK // len(self._head.near.bank))
        return torch.cat([self._head(block) for block in features.split(rows)])

    def probabilities(self, features: Tensor) -> Tensor:
        """The same."""
        return self.scores(features)

    def head(self) -> SpacedHead:
        return self._head


def nearest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each of z (N, d) of unit length the k nearest others: their numbers (N, k) int64, and cosines (N, k)."""
    k, rows = min(k, len(z) - 1), max(1, BLOCK // len(z))
    indices, cosines = [], []
    for start in range(0, len(z), rows):
        similarity = z[start : start + rows] @ z.T
        own = torch.arange(len(similarity))
        similarity[own, own + start] = -torch.inf
        value, index = similarity.topk(k, dim=1)
        indices.append(index)
        cosines.append(value)
    return torch.cat(indices), torch.cat(cosines)


def spread(flow: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The symmetric matrix of the joins times flow (N, K): each join (i, index[i, j]) weighs the same both ways."""
    out = torch.zeros_like(flow)
    for to, share in zip(index.T, weight.T[..., None], strict=True):
        out += share * flow[to]
        out.index_add_(0, to, share * flow)
    return out
