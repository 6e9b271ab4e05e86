"""LARS: SGD with momentum whose every layer steps in proportion to its weights' norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg, arXiv 1708.03888, algorithm 1, as SimCLR uses it).

        g = grad + weight_decay * w;  r = trust * |w| / |g|;  v = momentum * v + r * g;  w = w - lr * v

    r is 1 where either norm is 0, and in groups with adapt=False (biases and normalisation: see groups.py), whose lr is
    `plain` times that of the others (Barlow Twins: 0.024).
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 1e-6,
        momentum: float = 0.9,
        trust: float = 1e-3,
        plain: float = 1.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust": trust,
            "plain": plain,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            grads: list[Tensor] = [p.grad for p in weights]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                rates = []
                for w, g in zip(torch._foreach_norm(weights), torch._foreach_norm(grads), strict=True):
                    usable = (w > 0) & (g > 0)
                    rates.append(torch.where(usable, group["trust"] * w / g.clamp_min(1e-30), torch.ones_like(w)))
                grads = list(torch._foreach_mul(grads, rates))  # tensors of no dimension: no wait for the device
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            velocities = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, grads)
            torch._foreach_add_(weights, velocities, alpha=-group["lr"] * (1 if group["adapt"] else group["plain"]))
        return loss
