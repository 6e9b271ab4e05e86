"""Prototypes: clusters as directions, and the even assignment of a batch to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Soft assignments of embeddings to prototypes that use all prototypes equally.

    The columns and the rows of the matrix exp(scores / epsilon) are scaled in turn: each prototype gets the same total,
    each embedding a total of 1 (SwAV, equations 3 and 4; Cuturi 2013, arXiv 1306.0895). This is done with logarithms,
    which do not overflow for any epsilon.

    Args:
        scores: (n, K) similarities of embeddings and prototypes.
        epsilon: the smaller, the harder the assignments.
        iterations: how often columns and rows are scaled.

    Returns:
        (n, K).
    """
    q = scores.float() / epsilon
    for _ in range(iterations):
        q = q - q.logsumexp(0, keepdim=True)
        q = q - q.logsumexp(1, keepdim=True)
    return q.exp()
