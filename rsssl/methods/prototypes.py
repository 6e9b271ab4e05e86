"""Prototypes: clusters as directions, and the even assignment of a batch to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.methods.losses import full_precision


class Prototypes(nn.Module):
    """Cosines (n, K) of embeddings (n, D), of any length, to K learned directions (Caron et al. 2020, SwAV, section 3.1).

    Each direction has length 1 however the optimizer moves it.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(prototypes, width), dim=1))

    @full_precision
    def forward(self, z: Tensor) -> Tensor:
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight.float(), dim=1))


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments (n, K) of n embeddings, by scores (n, K), that use all K prototypes alike.

    The matrix exp(scores / epsilon) has its columns and rows scaled in turn: each prototype gets the same total,
    each embedding a total of 1 (SwAV, equations 3 and 4; Cuturi 2013, arXiv 1306.0895). Worked out in logarithms, which
    no epsilon overflows.
    """
    q = scores.float() / epsilon
    for _ in range(iterations):
        q = q - q.logsumexp(0, keepdim=True)
        q = q - q.logsumexp(1, keepdim=True)
    return q.exp()
