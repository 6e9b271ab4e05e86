"""Which unlabelled images to label next, from frozen features: three ways to choose, all of them deterministic.

    typicality    before there is any classifier: an ordinary image of every large cluster
    coverage      images so that no image is far from a labelled one: finds the rare, and the odd
    margin        once there is a classifier: images it cannot decide, no two alike

Rows are positions in features (N, D); `labelled` are those that have their label: they are never chosen and count as
covered. A choice is in order, the most useful first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rsssl.engine.progress import followed
from rsssl.errors import UserError
from rsssl.rng import fold, uniform

NEIGHBOURS = 20  # of the typicality, as in the paper
LARGEST = (
    4096  # images of a cluster to look for neighbours in: all of a smaller one, evenly spaced ones of a larger one
)
CLUSTERS = 1000  # at most, unless more images are asked for
UNDECIDED = 10  # times n images are the least certain, of which `margin` chooses n
RESTARTS = 3
ITERATIONS = 100
BLOCK = 16 << 20  # distances in memory at a time


class Choice(NamedTuple):
    """rows (n,) int64, the most useful first; score (n,) float32, what they were chosen by."""

    rows: Tensor
    score: Tensor


class Clusters(NamedTuple):
    """Of N points, as k-means finds them."""

    of: Tensor  # (N,) int64, the cluster of each point
    centres: Tensor  # (k, D)
    inertia: float  # the sum of squared distances to the own centre


def typicality(
    features: Tensor, n: int, seed: int, labelled: Tensor | None = None, most_clusters: int = CLUSTERS
) -> Choice:
    """TypiClust (Hacohen, Dekel, Weinshall 2022, "Active learning on a budget", arXiv:2202.02794).

    The images are clustered into as many clusters as there will be labels, by k-means on features of unit length. The
    largest cluster without a label gives its most typical image, then the next largest.

    Args:
        features: (N, D), any scale.
        n: images to choose.
        seed: of the clustering.
        labelled: rows, (L,) int64.
        most_clusters: unless n is larger.

    Returns:
        score: the typicality, 1 / mean distance to the 20 nearest neighbours within the cluster.

    Raises:
        UserError: n is more than there are unlabelled images; NaN or infinity among the features.
    """
    x, known = prepared(features, n, labelled)
    k = min(len(x), max(n, min(n + int(known.sum()), most_clusters)))
    of = kmeans(x, k, fold(seed, "typicality")).of
    sizes, labels = torch.bincount(of, minlength=k), torch.bincount(of[known], minlength=k)
    # Clusters without a label by their size; then, where all have one, those with the fewest for their size.
    order = _sorted(-sizes / (1 + labels), (labels > 0).float())
    return _one_of_each(typicalities(x, of, k), of, order, ~known, n)


def coverage(features: Tensor, n: int, labelled: Tensor | None = None) -> Choice:
    """The greedy k-centre of Sener and Savarese 2018 ("A core-set approach", arXiv:1708.00489).

    Each image chosen is the farthest from all that are labelled or chosen before; without labels, the first is the
    nearest to the mean. Nothing is random; of images equally far, the first is taken. Distances are between features
    less their mean, of unit length: without that it takes odd images first (experiments/suggest).

    Args:
        features: (N, D), any scale.
        n: images to choose.
        labelled: rows, (L,) int64.

    Returns:
        score: the distance to the nearest image labelled or chosen before; of a first one to the mean.

    Raises:
        UserError: as `typicality`.
    """
    x, known = prepared(features, n, labelled, centre=True)
    nearest = torch.full((len(x),), torch.inf)
    rows, scores = torch.nonzero(known)[:, 0].tolist(), list[float]()
    for row in rows:
        nearest = torch.minimum(nearest, distances(x, x[row : row + 1])[:, 0])
    for _ in followed(range(n), "coverage", "images"):
        if rows:
            nearest[torch.tensor(rows)] = -1.0  # below the 0 of their copies
            row, distance = int(nearest.argmax()), nearest
        else:
            distance = distances(x, x.mean(0, keepdim=True))[:, 0]
            row = int(distance.argmin())
        rows.append(row)
        scores.append(float(distance[row]))
        nearest = torch.minimum(nearest, distances(x, x[row : row + 1])[:, 0])
    return Choice(torch.tensor(rows[len(rows) - n :]), torch.tensor(scores))


def margin(probabilities: Tensor, features: Tensor, n: int, seed: int, labelled: Tensor | None = None) -> Choice:
    """The images whose two most probable classes are closest, and no two alike.

    Margin sampling (Scheffer, Decomain, Wrobel 2001, "Active hidden Markov models"): the least certain 10 n are
    clustered into n, and each cluster gives its least certain image (after Citovsky et al. 2021, "Batch active learning
    at scale", arXiv:2107.14263).

    Args:
        probabilities: (N, K), of each class, K > 1.
        features: (N, D), any scale.
        n: images to choose.
        seed: of the clustering.
        labelled: rows, (L,) int64.

    Returns:
        score: 1 - (most probable - second most probable), so that more is less certain, as elsewhere more is better.

    Raises:
        UserError: as `typicality`.
    """
    x, known = prepared(features, n, labelled, centre=True)
    top = probabilities.float().topk(2, dim=1).values
    score = 1 - (top[:, 0] - top[:, 1])
    free = torch.nonzero(~known)[:, 0]
    least = free[_sorted(-score[free])[: UNDECIDED * n]]
    of = kmeans(x[least], n, fold(seed, "margin")).of
    best = torch.full((n,), -torch.inf).scatter_reduce_(0, of, score[least], "amax")
    choice = _one_of_each(score[least], of, _sorted(-best), torch.ones(len(least), dtype=torch.bool), n)
    return Choice(least[choice.rows], choice.score)


def prepared(features: Tensor, n: int, labelled: Tensor | None, centre: bool = False) -> tuple[Tensor, Tensor]:
    """Features as they are compared (N, D) float32, and which of them are labelled (N,) bool.

    They get unit length; with `centre` their mean is taken off before.

    Raises:
        UserError: too few to choose n from; NaN or infinity.
    """
    known = torch.zeros(len(features), dtype=torch.bool)
    if labelled is not None:
        known[labelled] = True
    refuse_too_many(n, len(features) - int(known.sum()))
    if not torch.isfinite(features).all():
        raise UserError(
            "the features contain NaN or infinity: the backbone's weights have diverged. Pre-train again with a "
            "smaller learning rate, for example pretrain.lr=1e-4"
        )
    x = features.float()
    return normalize(x - x.mean(0) if centre else x, dim=1), known


def refuse_too_many(n: int, free: int) -> None:
    """Raises UserError when n is more than the `free` images that can be chosen."""
    if n > free:
        many = f"suggest.n={n} asks for more images than the {free} without a label"
        raise UserError(f"{many}: type suggest.n={free} or less")


def kmeans(x: Tensor, k: int, key: int, restarts: int = RESTARTS) -> Clusters:
    """Lloyd's iterations from a greedy k-means++ start, the best of a few such runs.

    Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".

    Args:
        x: (N, D) points.
        k: number of clusters, at most N; none of them is empty.
        key: of the random draws.
        restarts: number of runs.
    """
    square = x.square().sum(1)
    runs = followed(range(restarts), "clusters", "runs")
    clusterings = (_lloyd(x, square, x[_seeds(x, square, k, fold(key, "run", run))]) for run in runs)
    return min(clusterings, key=lambda clusters: clusters.inertia)


def typicalities(x: Tensor, of: Tensor, k: int, neighbours: int = NEIGHBOURS, largest: int = LARGEST) -> Tensor:
    """1 / mean distance of each point to its nearest neighbours in its own cluster (N,); 0 when alone.

    Args:
        x: (N, D) points.
        of: (N,) their clusters.
        k: number of clusters.
        neighbours: number of neighbours.
        largest: members of a cluster among which neighbours are looked for.
    """
    score = torch.zeros(len(x))
    clusters = torch.argsort(of, stable=True).split(torch.bincount(of, minlength=k).tolist())
    for members in followed(clusters, "typicality", "clusters"):
        if len(members) < 2:
            continue
        others = members[:: -(-len(members) // largest)]
        near = min(neighbours, len(members) - 1, len(others) - 1)
        for block in members.split(max(1, BLOCK // len(others))):
            closest = distances(x[block], x[others]).topk(near + 1, largest=False, sorted=True).values
            itself = torch.isin(block, others)  # where an image is among the others, it is its own closest
            mean = torch.where(itself, closest[:, 1:].mean(1), closest[:, :near].mean(1))
            score[block] = 1 / mean.clamp_min(1e-6)
    return score


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m) between x (n, D) and y (m, D)."""
    return (x.square().sum(1)[:, None] - 2 * (x @ y.T) + y.square().sum(1)).clamp_min(0).sqrt()


def _seeds(x: Tensor, square: Tensor, k: int, key: int) -> Tensor:
    """Rows (k,) to start from: each the best of a few drawn in proportion to the squared distance to those before."""
    trials = 2 + (k.bit_length() - 1)
    draws = uniform(key, torch.arange(k), trials).double()
    rows = [min(int(draws[0, 0] * len(x)), len(x) - 1)]
    nearest = (square - 2 * (x @ x[rows[0]]) + square[rows[0]]).clamp_min(0)
    nearest[rows[0]] = 0
    for i in range(1, k):
        total = nearest.double().cumsum(0)
        if total[-1] > 0:
            tried = torch.searchsorted(total, draws[i] * total[-1], right=True).clamp_max(len(x) - 1)
        else:  # fewer different points than clusters: any that is not chosen yet
            free = torch.ones(len(x), dtype=torch.bool)
            free[torch.tensor(rows)] = False
            tried = torch.nonzero(free)[:1, 0]
        new = torch.minimum(nearest, (square - 2 * (x[tried] @ x.T) + square[tried, None]).clamp_min(0))  # (trials, N)
        best = int(new.double().sum(1).argmin())
        nearest = new[best]
        rows.append(int(tried[best]))
        nearest[rows[-1]] = 0
    return torch.tensor(rows)


def _lloyd(x: Tensor, square: Tensor, centres: Tensor) -> Clusters:
    """Lloyd's iterations from the centres (k, D) until no point changes its cluster."""
    k, before = len(centres), torch.full((len(x),), -1)
    for _ in range(ITERATIONS):
        of, far = _assign(x, square, centres)
        sizes = torch.bincount(of, minlength=k)
        for empty in torch.nonzero(sizes == 0)[:, 0].tolist():  # it takes the point farthest from its centre
            row = int(torch.where(sizes[of] > 1, far, -1.0).argmax())
            sizes[of[row]] -= 1
            of[row], far[row], sizes[empty] = empty, 0.0, 1
        if torch.equal(of, before):
            break
        before = of
        total = torch.zeros(k, x.shape[1], dtype=torch.float64)
        for rows in torch.arange(len(x)).split(max(1, BLOCK // x.shape[1])):
            total.index_add_(0, of[rows], x[rows].double())
        centres = (total / sizes[:, None]).float()
    return Clusters(of, centres, float(far.double().sum()))


def _assign(x: Tensor, square: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point (N,), and its squared distance (N,)."""
    norm = centres.square().sum(1)
    parts = [(norm - 2 * (block @ centres.T)).min(1) for block in x.split(max(1, BLOCK // len(centres)))]
    far = (square + torch.cat([p.values for p in parts])).clamp_min(0)
    return torch.cat([p.indices for p in parts]), far


def _sorted(*keys: Tensor) -> Tensor:
    """Rows in ascending order of the last key, of the one before where it ties, and so on; then by their number."""
    order = torch.arange(len(keys[0]))
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order


def _one_of_each(score: Tensor, of: Tensor, order: Tensor, free: Tensor, n: int) -> Choice:
    """n of the free rows: the best of every cluster in the clusters' `order` (k,), then the second best, and so on."""
    rows = torch.nonzero(free)[:, 0]
    rows = rows[_sorted(-score[rows], order.argsort()[of[rows]])]
    sizes = torch.unique_consecutive(of[rows], return_counts=True)[1]
    turn = torch.cat([torch.arange(int(size)) for size in sizes])  # 0 for the best of a cluster
    chosen = rows[turn.argsort(stable=True)][:n]
    return Choice(chosen, score[chosen])
