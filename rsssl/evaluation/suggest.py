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
from tqdm import tqdm

from rsssl.errors import UserError
from rsssl.rng import fold, uniform

NEIGHBOURS = 20  # of the typicality, as in the paper
LARGEST = (
    4096  # images of a cluster among which neighbours are sought: all of them in most, evenly spaced ones in larger
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
    """of (N,) int64, the cluster of each point; centres (k, D); inertia, the sum of squared distances to the own
    centre."""

    of: Tensor
    centres: Tensor
    inertia: float


def typicality(features: Tensor, n: int, seed: int, labelled: Tensor | None = None) -> Choice:
    """TypiClust (Hacohen, Dekel, Weinshall 2022, "Active learning on a budget", arXiv:2202.02794).

    The images are clustered into as many clusters as there will be labels, by k-means on features of unit length. The
    largest cluster without a label gives its most typical image, then the next largest.

    Args:
        features: (N, D), any scale. seed: of the clustering. labelled: rows, (L,) int64.

    Returns:
        score: the typicality, 1 / mean distance to the 20 nearest neighbours within the cluster.

    Raises:
        UserError: n is more than there are unlabelled images; NaN or infinity among the features.
    """
    x, known = prepared(features, n, labelled)
    k = min(len(x), max(n, min(n + int(known.sum()), CLUSTERS)))
    clusters = kmeans(x, k, fold(seed, "typicality"))
    score = typicalities(x, clusters.of, k)
    sizes = torch.bincount(clusters.of, minlength=k)
    labels = torch.bincount(clusters.of[known], minlength=k)
    # Clusters without a label by their size; then, where all have one, those with the fewest for their size.
    order = _sorted(-sizes / (1 + labels), (labels > 0).float())
    place = torch.empty_like(order)
    place[order] = torch.arange(k)
    return _one_of_each(score, clusters.of, place, ~known, n)


def coverage(features: Tensor, n: int, labelled: Tensor | None = None) -> Choice:
    """The greedy k-centre of Sener and Savarese 2018 ("A core-set approach", arXiv:1708.00489), on features less their
    mean, of unit length (without that it takes the odd first: experiments/suggest).

    Each image chosen is the farthest from all that are labelled or chosen before; without labels, the first is the
    nearest to the mean of these. Nothing is random; of images equally far, the first is taken.

    Returns:
        score: the distance to the nearest image labelled or chosen before; of a first one to the mean.

    Raises:
        UserError: as `typicality`.
    """
    x, known = prepared(features, n, labelled, centre=True)
    nearest = torch.full((len(x),), torch.inf)
    for row in torch.nonzero(known)[:, 0].tolist():
        nearest = torch.minimum(nearest, distances(x, x[row : row + 1])[:, 0])
    nearest[known] = -1.0  # below the 0 of their copies
    rows, scores = list[int](), list[float]()
    for _ in tqdm(range(n), desc="coverage", unit="image", leave=False, disable=None):
        if rows or known.any():
            row = int(nearest.argmax())
            scores.append(float(nearest[row]))
        else:
            row = int((from_mean := distances(x, x.mean(0, keepdim=True))[:, 0]).argmin())
            scores.append(float(from_mean[row]))
        rows.append(row)
        nearest = torch.minimum(nearest, distances(x, x[row : row + 1])[:, 0])
        nearest[known] = nearest[torch.tensor(rows)] = -1.0
    return Choice(torch.tensor(rows), torch.tensor(scores))


def margin(probabilities: Tensor, features: Tensor, n: int, seed: int, labelled: Tensor | None = None) -> Choice:
    """The images whose two most probable classes are closest (Scheffer, Decomain, Wrobel 2001, "Active hidden Markov
    models"), and no two alike: the least certain 10 n are clustered into n, and each cluster gives its least certain
    image (after Citovsky et al. 2021, "Batch active learning at scale", arXiv:2107.14263).

    Args:
        probabilities: (N, K), of each class, K > 1. features: (N, D). seed: of the clustering. labelled: rows, (L,)
            int64.

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
    place = torch.empty(n, dtype=torch.int64)
    place[_sorted(-best)] = torch.arange(n)
    choice = _one_of_each(score[least], of, place, torch.ones(len(least), dtype=torch.bool), n)
    return Choice(least[choice.rows], choice.score)


def prepared(features: Tensor, n: int, labelled: Tensor | None, centre: bool = False) -> tuple[Tensor, Tensor]:
    """Features, less their mean with `centre`, of unit length (N, D) float32, and which are labelled (N,) bool; refuses
    what cannot be chosen from."""
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
        raise UserError(
            f"suggest.n={n} asks for more images than the {free} without a label: type suggest.n={free} or less"
        )


def kmeans(x: Tensor, k: int, key: int, restarts: int = RESTARTS) -> Clusters:
    """k clusters of points x (N, D), none of them empty, k <= N: Lloyd's iterations from a greedy k-means++ start
    (Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"), the best of a few such runs. key:
    of the draws."""
    best: Clusters | None = None
    square = x.square().sum(1)
    for run in tqdm(range(restarts), desc="clusters", unit="run", leave=False, disable=None):
        one = _lloyd(x, square, x[_seeds(x, square, k, fold(key, "run", run))])
        if best is None or one.inertia < best.inertia:
            best = one
    assert best is not None
    return best


def typicalities(x: Tensor, of: Tensor, k: int) -> Tensor:
    """1 / mean distance of each point x (N, D) to its nearest neighbours in its own cluster `of` (N,): (N,); 0 when
    alone."""
    score = torch.zeros(len(x))
    order = torch.argsort(of, stable=True)
    for members in tqdm(
        order.split(torch.bincount(of, minlength=k).tolist()),
        desc="typicality",
        unit="cluster",
        leave=False,
        disable=None,
    ):
        if len(members) < 2:
            continue
        step = -(-len(members) // LARGEST)
        others = x[members[::step]]
        near = min(NEIGHBOURS, len(members) - 1, len(others) - 1)
        for block in members.split(max(1, BLOCK // len(others))):
            # the nearest is the image itself, where it is among the others
            itself = torch.isin(block, members[::step])
            nearest = distances(x[block], others).topk(near + 1, largest=False, sorted=True).values
            mean = torch.where(itself, nearest[:, 1:].mean(1), nearest[:, :near].mean(1))
            score[block] = 1 / mean.clamp_min(1e-6)
    return score


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m) between x (n, D) and y (m, D)."""
    return (x.square().sum(1)[:, None] - 2 * (x @ y.T) + y.square().sum(1)).clamp_min(0).sqrt()


def _seeds(x: Tensor, square: Tensor, k: int, key: int) -> Tensor:
    """Rows (k,) to start from: each is the best of a few drawn in proportion to the squared distance to those
    before."""
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


def _one_of_each(score: Tensor, of: Tensor, place: Tensor, free: Tensor, n: int) -> Choice:
    """n of the free rows: the best of every cluster in order of the clusters' `place` (k,), then the second best, and
    so on."""
    rows = torch.nonzero(free)[:, 0]
    rows = rows[_sorted(-score[rows], place[of[rows]].float())]
    cluster = of[rows]
    first = torch.cat([torch.tensor([True]), cluster[1:] != cluster[:-1]])
    start = torch.where(first, torch.arange(len(rows)), 0).cummax(0).values
    turn = torch.arange(len(rows)) - start  # 0 for the best of a cluster
    chosen = rows[turn.argsort(stable=True)][:n]
    return Choice(chosen, score[chosen])
