"""LARS: SGD with momentum in which the step of each layer is in proportion to the norm of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg, arXiv 1708.03888, algorithm 1, as SimCLR uses it).

        g = grad + weight_decay * w;  r = trust * |w| / |g|;  v = momentum * v + r * g;  w = w - lr * v

    r is 1 where either norm is 0, and in groups with adapt=False (biases and normalisation: see groups.py).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: factor on the weights that are added to the gradient.
        momentum: decay rate of the moving sum of gradients.
        trust: factor on the ratio of the norms.
        plain: factor on the learning rate in groups with adapt=False (Barlow Twins: 0.024).
    """

    def __init__(
        self, params: Any, lr: float, weight_decay: float, momentum: float, trust: float, plain: float
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust, "plain": plain}
        super().__init__(params, settings | {"adapt": True})

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
                grads = list(torch._foreach_mul(grads, rates))  # rates stay tensors: nothing waits for the device
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            velocities = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, grads)
            torch._foreach_add_(weights, velocities, alpha=-group["lr"] * (1 if group["adapt"] else group["plain"]))
        return loss
