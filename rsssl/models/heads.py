"""Heads on top of a backbone's pooled features."""

from __future__ import annotations

from torch import nn


def projector(
    in_features: int, hidden: int, out: int, layers: int = 2, bn_last: bool = False, norm: bool = True
) -> nn.Sequential:
    """(B, in_features) -> (B, out): linear layers with batch normalisation and ReLU between them.

    The paper's SimCLR head is projector(2048, 512, 128); arXiv 2002.05709, section 2.1.

    Args:
        in_features: features of the backbone.
        hidden: width between the layers.
        out: width of the output.
        layers: number of linear layers.
        bn_last: whether a batch normalisation without scale and shift comes last (SimCLR v2, BYOL's and SimSiam's
            descendants).
        norm: whether there is batch normalisation between the layers.
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
