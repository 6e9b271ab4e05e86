"""torch's optimizers under the names of the config group `optimizer`, fused into one kernel where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def Adam(
    params: Iterable[Any], lr: float, weight_decay: float, betas: Sequence[float], eps: float
) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: factor on the weights that are added to the gradient.
        betas: decay rates of the first and the second moment; the paper's (arXiv 2010.00882) are 0.9 and 0.99.
        eps: added to the root of the second moment.
    """
    return _fused(torch.optim.Adam, params, lr=lr, weight_decay=weight_decay, betas=tuple(betas), eps=eps)


def AdamW(
    params: Iterable[Any], lr: float, weight_decay: float, betas: Sequence[float], eps: float
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: a step multiplies the weights by 1 - lr * weight_decay.
        betas: decay rates of the first and the second moment.
        eps: added to the root of the second moment.
    """
    return _fused(torch.optim.AdamW, params, lr=lr, weight_decay=weight_decay, betas=tuple(betas), eps=eps)


def SGD(
    params: Iterable[Any], lr: float, weight_decay: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: factor on the weights that are added to the gradient.
        momentum: decay rate of the moving sum of gradients.
        nesterov: whether the momentum is Nesterov's.
    """
    return _fused(torch.optim.SGD, params, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)


def _fused(kind: Callable[..., torch.optim.Optimizer], params: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Fused when all parameters are float32 on the CPU or all on one GPU; otherwise the choice is torch's."""
    params = list(params)
    tensors: list[Tensor] = [t for p in params for t in (p["params"] if isinstance(p, dict) else [p])]
    kinds = {(t.device, t.dtype) for t in tensors}
    fusable = len(kinds) == 1 and all(d.type in ("cpu", "cuda") and k == torch.float32 for d, k in kinds)
    return kind(params, fused=fusable or None, **options)
