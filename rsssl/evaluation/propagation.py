"""Label propagation: what the labels do not say, the pool's unlabelled images may."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rsssl.engine.progress import followed
from rsssl.errors import UserError
from rsssl.evaluation.base import Probe
from rsssl.evaluation.blocks import BLOCK, in_blocks
from rsssl.evaluation.heads import NeighbourHead, log_votes, vote
from rsssl.evaluation.on_disk import Features, in_parts
from rsssl.evaluation.spaces import PoolSpace
from rsssl.evaluation.standardise import check_finite, check_training_set

COLUMNS = 256  # rounds times classes that flow at a time
SHARPNESS = 1.6  # of the votes' logarithms: measured at 1 and 5 labels a class


class Propagation(Probe):
    """Labels spread over the graph of the pool's nearest neighbours; a new image has the classes of those near it.

    Every image of the pool is joined to its nearest neighbours in `PoolSpace`. The labels flow along the joins, F = a S
    F + (1 - a) Y with S the joins' weights exp(cosine / temperature), symmetric and normalised (Zhou et al. 2004,
    "Learning with local and global consistency", algorithm 1). Each class then has its flow divided by the sum of it,
    so that no class drowns another (class mass normalisation, Zhu, Ghahramani and Lafferty 2003, section 4, with equal
    shares: uneven pools lose less by it than by any estimate of theirs that was tried). What an image then has of each
    class, to the power `decided`, are its shares, and a new image has those of its nearest neighbours. Memory grows
    with the images that are looked at, by 3 kB each, and not with their square, nor with the width of the features,
    which stay on the disk.

    Args:
        pool_images: of the pool that are looked at, drawn once.
        dimensions: of the space.
        neighbours: that an image is joined to, and that vote.
        temperature: of both weights.
        alpha: a, how far a label flows.
        iterations: of the flow.
        decided: 1 takes the shares as they arrive; the larger, the more the largest of them takes all.
    """

    def __init__(
        self,
        pool_images: int,
        dimensions: int,
        neighbours: int,
        temperature: float,
        alpha: float,
        iterations: int,
        decided: float,
    ) -> None:
        if not 0 < alpha < 1 or temperature <= 0 or min(pool_images, dimensions, neighbours, iterations, decided) < 1:
            raise UserError(
                f"evaluate.alpha={alpha} must be between 0 and 1, evaluate.temperature={temperature} above 0, and "
                f"pool_images={pool_images}, dimensions={dimensions}, neighbours={neighbours}, "
                f"iterations={iterations} and decided={decided} at least 1"
            )
        self.pool_images, self.dimensions, self.neighbours = pool_images, dimensions, neighbours
        self.temperature, self.alpha, self.iterations, self.decided = temperature, alpha, iterations, decided
        self.details: dict[str, Any] = {}

    def fit(
        self, features: Tensor, labels: Tensor, n_classes: int, seed: int, pool: Features | None = None
    ) -> Propagation:
        """Fits to features (n, D), labels (n,) and the features (N, D) of the pool's unlabelled images.

        Raises:
            UserError: without a pool, and for NaN or infinity among the features.
        """
        check_training_set(features, labels, n_classes)
        if pool is None or len(pool) < 1:
            raise UserError("evaluate=propagate needs images without a label in the pool: type evaluate=linear")
        check_finite(pool, "of the pool's images")
        space = PoolSpace.of(features, pool, dimensions=self.dimensions)
        z = torch.cat([space(part) for part in in_parts(features, pool)])
        self._graph = nearest(z, self.neighbours)
        self._joins = symmetric(*self._graph, self.temperature)
        known = torch.ones(1, len(labels), dtype=torch.bool)
        shares = self.shares(labels, known, n_classes)[:, 0]
        reached = shares.sum(1) > 0  # a part of the graph may hold no label
        settings = {"k": self.neighbours, "temperature": self.temperature, "sharpness": SHARPNESS}
        nowhere = z.new_zeros(z.shape[1])
        self._head = NeighbourHead(settings, z[reached], shares[reached], nowhere, space)
        found = torch.bincount(shares[reached].argmax(1), minlength=n_classes) / reached.sum()
        self.details = {"pool": len(z), "reached": int(reached.sum()), "class_shares": found.tolist()}
        return self

    def shares(self, labels: Tensor, known: Tensor, n_classes: int) -> Tensor:
        """What each of N images has of each class, the first of them with labels (n,), of which known (R, n) may be
        used in each of R rounds: (N, R, K), rows of sum 1, or 0 where no label arrives."""
        flow = self.flow(labels, known, n_classes)
        tiny = torch.finfo(flow.dtype).tiny
        shares = flow / flow.sum(0).clamp_min(tiny)
        shares = (shares / shares.amax(2, keepdim=True).clamp_min(tiny)) ** self.decided
        shares = shares / shares.sum(2, keepdim=True).clamp_min(tiny)
        row, turn = known.T.nonzero(as_tuple=True)
        shares[row, turn] = one_hot(labels[row], n_classes).to(shares)
        return shares

    def flow(self, labels: Tensor, known: Tensor, n_classes: int) -> Tensor:
        """How much of each class arrives at each image, as in `shares`: (N, R, K)."""
        source = torch.zeros(len(self._joins), len(known), n_classes)
        row, turn = known.T.nonzero(as_tuple=True)
        source[row, turn, labels[row]] = 1
        flow = source = source.flatten(1)
        for _ in followed(range(self.iterations), "propagation", "iterations"):
            flow = self.alpha * (self._joins @ flow) + (1 - self.alpha) * source
        return flow.unflatten(1, (len(known), n_classes))

    def refitted(self, features: Tensor, labels: Tensor, n_classes: int, seed: int, known: Tensor) -> Tensor:
        """See `Probe.refitted`: in the pool's graph as it is, an image that is held out is one without a label."""
        index, cosine = (t[: len(labels)] for t in self._graph)
        rounds = []
        for some in known.split(max(1, COLUMNS // n_classes)):
            shares = self.shares(labels, some, n_classes)
            rounds += [vote(cosine, index, of_round, self.temperature) for of_round in shares.unbind(1)]
        return log_votes(torch.stack(rounds), SHARPNESS) if rounds else torch.zeros(0, len(labels), n_classes)

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to the classes' shares of the votes (m, n_classes) float32, rows of sum 1."""
        return in_blocks(self._head.votes, features, len(self._head.bank), divided=False)

    def head(self) -> NeighbourHead:
        return self._head


def nearest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each of z (N, d) of unit length the k nearest others: their numbers (N, k) int64, and cosines (N, k)."""
    k, rows = min(k, len(z) - 1), max(1, BLOCK // len(z))
    indices, cosines = [], []
    for start in followed(range(0, len(z), rows), "neighbours in the pool", "blocks"):
        similarity = z[start : start + rows] @ z.T
        own = torch.arange(len(similarity))
        similarity[own, own + start] = -torch.inf
        value, index = similarity.topk(k, dim=1)
        indices.append(index)
        cosines.append(value)
    return torch.cat(indices), torch.cat(cosines)


def symmetric(index: Tensor, cosine: Tensor, temperature: float) -> Tensor:
    """The sparse matrix (N, N) of the joins from each image to index (N, k), which weigh exp((cosine - 1) /
    temperature) both ways, each divided by the root of what its two ends have together."""
    n, k = index.shape
    one, other = torch.arange(n).repeat_interleave(k), index.flatten()
    weight = ((cosine - 1) / temperature).exp().flatten()
    degree = torch.zeros(n).index_add_(0, one, weight).index_add_(0, other, weight)
    degree.clamp_min_(torch.finfo(degree.dtype).tiny)  # of an image that is like no other
    weight = weight * degree[one].rsqrt() * degree[other].rsqrt()
    ends = torch.stack([torch.cat([one, other]), torch.cat([other, one])])
    return torch.sparse_coo_tensor(ends, weight.repeat(2), (n, n), check_invariants=False).coalesce()
