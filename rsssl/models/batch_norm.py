"""Batch normalisation's statistics for the images that a network will see."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Running means and variances anew, as averages over these batches of images (B, C, S, S); the weights stay.

    For a network that was trained on something else than what it is used on: tiles, or images with parts missing
    (Wu and Johnson 2021, "Rethinking Batch in BatchNorm", arXiv 2105.07576, sections 3 and 5). The model ends in
    evaluation mode.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches, each counting the same
        norm.train()
    for x in batches if norms else ():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
