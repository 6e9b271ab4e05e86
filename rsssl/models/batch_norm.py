"""The statistics of batch normalisation for the images that a network will see."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
