"""torch's optimizers under the names of the config group `optimizer`, fused into one kernel where that is safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def Adam(
    params: Iterable[Any], lr: float, weight_decay: float = 0.0, betas: Sequence[float] = (0.9, 0.99), eps: float = 1e-8
) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980); weight decay is added to the gradient. The paper's betas are (0.9, 0.99)."""
    params = list(params)
    return torch.optim.Adam(
        params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=_fusable(params)
    )


def AdamW(
    params: Iterable[Any],
    lr: float,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    params = list(params)
    return torch.optim.AdamW(
        params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=_fusable(params)
    )


def SGD(
    params: Iterable[Any], lr: float, weight_decay: float = 1e-4, momentum: float = 0.9, nesterov: bool = True
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with (Nesterov) momentum."""
    params = list(params)
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=_fusable(params)
    )


def _fusable(params: list[Any]) -> bool | None:
    """True when all parameters are float32 on the CPU or all on one GPU; None leaves the choice to torch."""
    tensors: list[Tensor] = [t for p in params for t in (p["params"] if isinstance(p, dict) else [p])]
    kinds = {(t.device, t.dtype) for t in tensors}
    return True if len(kinds) == 1 and all(d.type in ("cpu", "cuda") and k == torch.float32 for d, k in kinds) else None
