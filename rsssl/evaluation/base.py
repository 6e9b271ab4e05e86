"""The base of the classifiers on frozen features, and the folds in which their labelled images are held out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from rsssl.engine.progress import followed
from rsssl.evaluation.blocks import in_blocks
from rsssl.evaluation.heads import Head
from rsssl.evaluation.on_disk import part_of
from rsssl.rng import fold, permutation

FOLDS = 5
MOST = 5000  # with more labelled images than this, one fold is held out in place of rotating them all


class Probe:
    """Base of the classifiers on frozen features, which `evaluate=` names."""

    trains_network = False  # True: the whole network is trained, not a classifier on its features
    divided = False  # True: all ranks fit it and divide the test images; False: rank 0 does it all
    pool_images = 0  # how many of the pool's images without a label `fit` takes too, as `pool` (N, D)
    paper_head = False  # True: protocol=paper trains this one as the published code does
    on_disk = False  # True: the labelled images' features may stay on the disk, where it reads them in parts
    statistics = False  # True: it looks at the statistics of the bands, and not at the network's features
    groups: Tensor | None = None  # (n,) of the labelled images: what folds must not tear apart; set before `fit`
    sharpness = 1.0  # what its logits are multiplied by where no label can be spared to find that out
    details: dict[str, Any]

    def fit(self, features: Any, labels: Tensor, n_classes: int, seed: int) -> Probe:
        """Fits to features (n, D), a tensor, or where the probe says so `Features`, and labels (n,) int64."""
        raise NotImplementedError(f"{type(self).__name__} must define fit(features, labels, n_classes, seed)")

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to scores (m, n_classes), of which the largest is the class."""
        raise NotImplementedError(f"{type(self).__name__} must define scores(features)")

    def head(self) -> Head:
        """What was fitted, as the classifier that is kept."""
        raise NotImplementedError(f"{type(self).__name__} must define head()")

    @torch.no_grad()
    def refitted(self, features: Tensor, labels: Tensor, n_classes: int, seed: int, known: Tensor) -> Tensor:
        """What the labelled images, which `fit` was given, have from fits to a part of them.

        Args:
            features: (n, D). labels: (n,) int64.
            known: (R, n) bool, those that are fitted to in each of R rounds; all classes are among them.

        Returns:
            Logits (R, n, n_classes).
        """
        rounds = []
        for some in followed(known, "cross-validation", "rounds", len(known)):
            probe = copy.copy(self)
            probe.groups = None if self.groups is None else self.groups[some]
            head = probe.fit(part_of(features, some), labels[some], n_classes, seed).head()
            rounds.append(in_blocks(head.logits, features, head.compared, divided=False))
        return torch.stack(rounds) if rounds else torch.zeros(0, len(labels), n_classes)

    def held_out(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> Tensor:
        """The logits (n, n_classes) that each of the labelled images has from a fit to the other folds; NaN for an
        image that is never held out, as are all where no class has two labels."""
        fold_of, rounds = held_out_folds(labels, seed, groups=self.groups)
        logits = torch.full((len(labels), n_classes), torch.nan)
        if rounds:
            known = torch.stack([fold_of != r for r in range(rounds)])
            for some, found in zip(known, self.refitted(features, labels, n_classes, seed, known), strict=True):
                logits[~some] = found[~some]
        return logits


def held_out_folds(
    labels: Tensor, seed: int, folds: int = FOLDS, most: int = MOST, groups: Tensor | None = None
) -> tuple[Tensor, int]:
    """The fold (n,) of each labelled image, and how many of the folds are held out in turn."""
    fold_of = deal_folds(labels, folds, seed) if groups is None else deal_groups(labels, groups, folds, seed)
    used = int(fold_of.max()) + 1
    return fold_of, (0 if used < 2 else used if len(labels) <= most else 1)


def deal_folds(y: Tensor, folds: int, seed: int) -> Tensor:
    """Deal samples y (n,) to stratified folds: (n,) int64, -1 for a sample that is never held out.

    Each class is shuffled by the seed and dealt round, starting where the class before stopped, so that folds differ
    by one sample at most. There are no more folds than the largest class has samples, and the only sample of a class
    is never held out.
    """
    sizes = torch.bincount(y)
    folds = min(folds, int(sizes.max()))
    fold_of = torch.full_like(y, -1)
    start = 0
    for c in torch.nonzero(sizes > 1)[:, 0].tolist():
        members = torch.nonzero(y == c)[:, 0]
        order = torch.from_numpy(permutation(fold(seed, "folds", c), len(members))).to(y.device)
        fold_of[members[order]] = (start + torch.arange(len(members), device=y.device)) % folds
        start += len(members)
    return fold_of


def deal_groups(y: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    """The same for samples in groups (n,) that stay together.

    The largest group first, equal ones shuffled by the seed, each goes to the fold that has the fewest samples of its
    classes. There are no more folds than some class has groups, and the only group of a class is never held out.
    """
    _, group = torch.unique(groups, return_inverse=True)
    counts = torch.zeros(int(group.max()) + 1, int(y.max()) + 1).index_put_(
        (group, y), torch.ones(len(y)), accumulate=True
    )  # (G, K)
    in_groups = (counts > 0).sum(0)
    folds = min(folds, int(in_groups.max()))
    only = ((counts > 0) & (in_groups == 1)).any(1)  # without it a class would be unknown
    shuffled = torch.from_numpy(permutation(fold(seed, "folds"), len(counts)).copy())
    order = shuffled[counts.sum(1)[shuffled].argsort(descending=True, stable=True)]
    dealt, of_group = torch.zeros(folds, counts.shape[1]), torch.full((len(counts),), -1)
    for g in order.tolist():
        if not only[g]:
            of_group[g] = int((dealt @ counts[g] + 1e-6 * dealt.sum(1)).argmin())
            dealt[of_group[g]] += counts[g]
    used = torch.unique(of_group[of_group >= 0])
    renumbered = torch.full((max(folds, 1) + 1,), -1)
    renumbered[used] = torch.arange(len(used))
    return renumbered[of_group][group]
