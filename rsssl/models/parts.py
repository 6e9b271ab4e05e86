"""A batch worked through part by part, for networks whose activations do not fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def mixes_images(network: nn.Module) -> bool:
    """Whether a feature depends on the other images of the batch: by a batch normalisation that is in training."""
    return any(isinstance(m, _BatchNorm) and m.training for m in network.modules())


def in_parts(network: nn.Module, rows: int) -> None:
    """Makes a network keep only its inputs and outputs, and work out the rest again in the backward pass, part by part.

    The gradient is that of the whole batch, whatever the loss compares (Chen et al. 2016, arXiv 1604.06174; for
    contrastive losses Gao et al. 2021, arXiv 2101.06983), where no normalisation mixes images (`mixes_images`). It
    costs a second forward pass.

    Args:
        network: images (n, C, H, W) to features (n, D), which is changed.
        rows: images of a part.
    """
    if not hasattr(network, "rows_at_once"):
        whole = network.forward

        def forward(x: Tensor) -> Tensor:
            if not torch.is_grad_enabled() or len(x) <= network.rows_at_once:  # type: ignore[operator]
                return whole(x)
            parts = x.split(network.rows_at_once)  # type: ignore[arg-type]
            return torch.cat([checkpoint(whole, part, use_reentrant=False) for part in parts])

        network.forward = forward  # type: ignore[method-assign]
    network.rows_at_once = rows  # type: ignore[assignment]
