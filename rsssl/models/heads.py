"""Heads on top of a backbone's pooled features."""

from __future__ import annotations

from torch import nn


def projector(
    in_features: int, hidden: int = 512, out: int = 128, layers: int = 2, bn_last: bool = False, norm: bool = True
) -> nn.Sequential:
    """(B, in_features) -> (B, out): `layers` linear maps, with batch normalisation (unless norm=False) and ReLU between them.

    The paper's SimCLR head is projector(2048, 512, 128); arXiv 2002.05709, section 2.1. bn_last adds a batch
    normalisation without scale and shift at the end (SimCLR v2, BYOL's and SimSiam's descendants).
    """
    if layers < 1:
        raise ValueError(f"a projector has at least one layer, not {layers}")
    modules: list[nn.Module] = []
    width = in_features
    for _ in range(layers - 1):
        modules.append(nn.Linear(width, hidden, bias=not norm))
        modules += [nn.BatchNorm1d(hidden)] if norm else []
        modules.append(nn.ReLU(inplace=True))
        width = hidden
    modules.append(nn.Linear(width, out, bias=not bn_last))
    if bn_last:
        modules.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*modules)
