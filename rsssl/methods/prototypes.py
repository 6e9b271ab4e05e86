"""Prototypes: clusters as directions, and the even assignment of a batch to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.engine.distributed import stack
from rsssl.methods.losses import full_precision


class Prototypes(nn.Module):
    """Cosines (n, K) of embeddings (n, D), of any length, to K learned directions.

    Each direction has length 1 however the optimizer moves it (Caron et al. 2020, SwAV, section 3.1).

    Args:
        width: D, dimensions of an embedding.
        prototypes: K, number of directions.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(prototypes, width), dim=1))

    @full_precision
    def forward(self, z: Tensor) -> Tensor:
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight.float(), dim=1))


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = 3) -> Tensor:
    """Soft assignments of the embeddings of all ranks to prototypes that use all prototypes equally.

    The columns and the rows of the matrix exp(scores / epsilon) are scaled in turn: each prototype gets the same total,
    each embedding a total of 1 (SwAV, equations 3 and 4; Cuturi 2013, arXiv 1306.0895). This is done with logarithms,
    which do not overflow for any epsilon. Each rank scales its own rows; of the columns the ranks exchange the sums.

    Args:
        scores: (..., n, K) similarities of this rank's embeddings and prototypes.
        epsilon: the smaller, the harder the assignments.
        iterations: how often columns and rows are scaled.

    Returns:
        (..., n, K).
    """
    q = scores.float() / epsilon
    for _ in range(iterations):
        q = q - stack(q.logsumexp(-2, keepdim=True)).logsumexp(0)
        q = q - q.logsumexp(-1, keepdim=True)
    return q.exp()
