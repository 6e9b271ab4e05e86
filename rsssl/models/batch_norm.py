"""The statistics of batch normalisation for the images that a network will see."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

KEEPS = "keeps_statistics"  # attribute of a batch normalisation whose statistics are not to change


def keep_statistics(network: nn.Module) -> None:
    """Marks all batch normalisations of a network, and of copies made of it later: they use the statistics they have.

    So features do not mix the images of a batch, and small batches do as well as large ones.

    Args:
        network: with statistics of its own; `Method.train` heeds the mark.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            setattr(module, KEEPS, True)


def hold_statistics(model: nn.Module) -> None:
    """Puts the marked batch normalisations of a model into evaluation mode."""
    for module in model.modules():
        if getattr(module, KEEPS, False):
            module.eval()


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Computes all running means and variances again, as averages over batches; the weights stay as they are.

    For a network that was trained on other images than it is used on: on tiles, or on images with parts missing
    (Wu and Johnson 2021, "Rethinking Batch in BatchNorm", arXiv 2105.07576, sections 3 and 5).

    Args:
        model: the network; it ends in evaluation mode.
        batches: images (B, C, S, S).
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    norms = [m for m in norms if not getattr(m, KEEPS, False)]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average in which all batches count the same
        norm.train()
    for x in batches if norms else ():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
