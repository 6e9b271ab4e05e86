"""Low-rank adaptation: a few numbers learn what to add to the weights of a network that stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """weight -> weight + up @ down (Hu et al. 2021, "LoRA", arXiv 2106.09685, section 4.1), with `up` zero at first.

    Args:
        weight: (out, ...) of a linear layer or a convolution, which is taken as the matrix (out, n).
        rank: columns of `up` (out, rank) and rows of `down` (rank, n); no more than either side has.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, n = weight.shape[0], weight[0].numel()
        rank = min(rank, out, n)
        self.down = nn.Parameter(torch.randn(rank, n, device=weight.device) / n**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapt(network: nn.Module, rank: int) -> None:
    """Freezes a network, in place, and lets low-rank sums to its linear layers and ungrouped convolutions learn."""
    network.requires_grad_(False)
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merge(network: nn.Module) -> None:
    """Puts what was learnt into the weights: the network is of plain layers again, and gives the same."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    network.requires_grad_(True)
