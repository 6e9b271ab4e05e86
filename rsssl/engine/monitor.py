"""Watching the embedding while pre-training: a loss can fall steadily while all images end up in one place."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

log = logging.getLogger(__name__)


@torch.no_grad()
def measured(z: Tensor) -> dict[str, Tensor]:
    """What the spread of embeddings z (n, D) follows from, on their device: "std", a scalar, and "gram", (k, k).

    "std" is the mean over dimensions of the std of L2-normalised rows, times sqrt(D): 1 for directions drawn at random,
    0 for a full collapse (Chen and He 2021, SimSiam, section 4.1). "gram" is the smaller of z z' and z' z, in float64.
    """
    unit, wide = normalize(z.float(), dim=1), z.double()
    gram = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
    return {"std": unit.std(0, unbiased=False).mean() * math.sqrt(z.shape[1]), "gram": gram}


def embedding_std(z: Tensor) -> float:
    """Spread of embeddings z (n, D), see `measured`; nan where z is not finite."""
    return float(measured(z)["std"])


def effective_rank(z: Tensor) -> float:
    """Number of dimensions that embeddings z (n, D) make use of, between 1 and min(n, D); see `rank_of`."""
    return rank_of(measured(z)["gram"].cpu())


def rank_of(gram: Tensor) -> float:
    """The effective rank of embeddings with that Gram matrix (k, k), on the CPU.

    The exponential of the entropy of the singular values' shares (RankMe: Garrido et al. 2023, equation 1; embeddings
    are not centred, as there). The singular values are the roots of the Gram matrix's eigenvalues. nan where it is not
    finite; 0 for embeddings of zeros.
    """
    if not torch.isfinite(gram).all():
        return float("nan")
    share = torch.linalg.eigvalsh(gram).clamp_min_(0).sqrt()
    total = share.sum()
    if total == 0:
        return 0.0
    share = share / total
    return float(torch.special.entr(share).sum().exp())


class CollapseMonitor:
    """Warns, loudly and once, when the embedding has collapsed.

    After `patience` checks in a row below a threshold, or not finite, it logs a warning and returns it; it is silent
    until the embedding has recovered and collapsed again.

    Args:
        min_std: the least `embedding_std` of a healthy embedding.
        min_rank: the least `effective_rank` of one.
        patience: checks in a row.

    `below` counts the checks in a row that were not healthy, up to the last one.
    """

    def __init__(self, min_std: float = 0.05, min_rank: float = 3.0, patience: int = 3) -> None:
        self.min_std, self.min_rank, self.patience = min_std, min_rank, patience
        self.below = 0

    def check(self, z: Tensor, step: int) -> tuple[float, float, str | None]:
        """Measures embeddings z (n, D) after that step: (std, rank, warning or None)."""
        return self.judge({k: v.cpu() for k, v in measured(z).items()}, step)

    def judge(self, measures: Mapping[str, Tensor], step: int) -> tuple[float, float, str | None]:
        """The same from what `measured` gives, on the CPU."""
        std, rank = float(measures["std"]), rank_of(measures["gram"])
        return std, rank, self.update(std, rank, step)

    def update(self, std: float, rank: float, step: int) -> str | None:
        """Takes one check's figures after that step; the warning when this is the check that confirms a collapse."""
        if std >= self.min_std and rank >= self.min_rank:  # false for nan
            self.below = 0
            return None
        self.below += 1
        if self.below != self.patience:
            return None
        if not (math.isfinite(std) and math.isfinite(rank)):
            state = "holds NaN or infinity"
        elif std < self.min_std:
            state = f"has collapsed: all images are mapped to nearly the same point (std {std:.4f}; 1 is healthy)"
        else:
            state = f"has collapsed into {rank:.1f} dimensions (effective rank; at least {self.min_rank:g} is healthy)"
        message = (
            f"COLLAPSE at step {step}: the embedding {state}, for {self.patience} checks in a row. The loss may go on "
            "falling, but these weights may classify no better than random ones. Where the online probe has fallen too "
            "(probe_oa in metrics.csv), stop this run (Ctrl-C) and start again with a smaller "
            "learning rate, for example pretrain.lr=1e-4, a warm-up (schedule.warmup=0.1) or a "
            "larger pretrain.batch_size."
        )
        log.warning(message)
        return message
