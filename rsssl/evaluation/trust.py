"""What a classifier keeps beside its head to say what it does not know: sets of classes that hold the truth as often as
was asked, and how unlike an image is to what was learnt from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rsssl.evaluation.on_disk import Features
from rsssl.evaluation.spaces import PoolSpace
from rsssl.rng import permutation

BANK = 2000  # images of the pool that are remembered
NEAREST = 5  # of them, whose mean distance counts
COMMON = 0.99  # share of the pool's images that are nearer than the distance that counts as 1


class Trust(nn.Module):
    """Kept with a classifier of frozen features.

    Args:
        scores: (n,) of labelled images that were held out, one minus the probability of their class.
        labels: (n,) their classes.
        n_classes: K.
        space: where features are compared; None where there is no pool.
        pool: (M, d) images of the pool in that space.
        labelled: (L, d) the labelled images in it.
        far: (2,) the distance to the pool, and to the labelled images, that COMMON of the pool's images do not reach.
    """

    scores: Tensor
    labels: Tensor
    pool: Tensor
    labelled: Tensor
    far: Tensor

    def __init__(
        self,
        scores: Tensor,
        labels: Tensor,
        n_classes: int,
        space: PoolSpace | None = None,
        pool: Tensor | None = None,
        labelled: Tensor | None = None,
        far: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_classes, self.space = n_classes, space
        nothing = torch.zeros(0)
        named = {"scores": scores, "labels": labels, "pool": pool, "labelled": labelled, "far": far}
        for name, value in named.items():
            self.register_buffer(name, nothing if value is None else value)

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, n_classes: int, features: Features, pool: Features) -> Trust:
        """From held-out probabilities (n, K) of images of classes labels (n,), and the features of the labelled images
        (L, D) and of the pool (N, D)."""
        scores = 1 - probabilities.gather(1, labels[:, None])[:, 0]
        if len(pool) <= 2 * NEAREST:
            return cls(scores, labels, n_classes)
        chosen = torch.from_numpy(permutation(0, len(pool))[: 2 * BANK].copy())
        bank, others = pool[chosen].chunk(2)
        space = PoolSpace.of(bank, dimensions=min(128, len(bank) - 1))
        trust = cls(scores, labels, n_classes, space, space(bank), space(features[:]), torch.ones(2))
        # of images that are not in the bank themselves
        trust.far = torch.quantile(trust.unlike(others), COMMON, dim=0).clamp_min(1e-6)
        return trust

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], n_classes: int) -> Trust:
        """What `state_dict` gave."""
        own = {name: tensors[name] for name in ("scores", "labels", "pool", "labelled", "far")}
        inner = {k.removeprefix("space."): v for k, v in tensors.items() if k.startswith("space.")}
        return cls(n_classes=n_classes, space=PoolSpace(**inner) if inner else None, **own)

    @property
    def knows_the_pool(self) -> bool:
        """Whether `unlike` can be asked."""
        return self.space is not None

    def least(self, coverage: float) -> Tensor:
        """(K,) the probability from which on a class is in the set of those that are plausible.

        Sets hold the true class with that probability, for images drawn as the labelled ones were (split conformal
        prediction with the score 1 - p, Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers",
        arXiv 1609.00451; Vovk 2012, "Cross-conformal predictors", for scores of cross-validation). A class with labels
        enough has a threshold of its own, so that it is covered as often as the others; the rest share that of all.

        Args:
            coverage: in (0, 1).
        """
        out = torch.full((self.n_classes,), _quantile(self.scores, coverage))
        for c in range(self.n_classes):
            own = self.scores[self.labels == c]
            if math.ceil((len(own) + 1) * coverage) <= len(own):
                out[c] = _quantile(own, coverage)
        return 1 - out

    def unlike(self, features: Tensor) -> Tensor:
        """(B, 2) how far features (B, D) are from the pool and from the labelled images: at 1, as far as one in a
        hundred images of the pool; above, unlike what was learnt from. It is the mean distance to the nearest ones in
        the pool's space, and what of the features is no part of that space."""
        assert self.space is not None
        z, beyond = self.space(features), self.space.beyond(features)
        return torch.stack([_distance(z, bank) + beyond for bank in (self.pool, self.labelled)], 1) / self.far


def _quantile(scores: Tensor, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score; 1 where there are too few."""
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores.sort().values[rank - 1]) if 0 < rank <= len(scores) else 1.0


def _distance(z: Tensor, bank: Tensor) -> Tensor:
    """(B,) mean of one minus the cosine of z (B, d) with its nearest of the bank (M, d)."""
    return 1 - (z @ bank.T).topk(min(NEAREST, len(bank)), dim=1).values.mean(1)
