"""Ridge regression on one-hot labels: a linear probe in closed form, its strength chosen by exact leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rsssl.evaluation.base import Probe
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.linear import principal_axes
from rsssl.evaluation.standardise import Standardise, check_training_set

CONFIDENCE = 14.0  # what a score, 0 to 1, is multiplied by to become a logit: measured at 1 and 5 labels a class


class RidgeProbe(Probe):
    """Least squares on one-hot targets with an L2 penalty and a free intercept.

        min_W  ||Y - X W - 1 b'||^2 + penalty * n * ||W||^2        (X standardised, rows of unit mean square)

    Solved in the principal axes of the samples, min(n, D) of them, for all penalties at once. The penalty is the
    one of least squared leave-one-out error, which is known without refitting (Allen's PRESS: residual / (1 -
    leverage)); where some samples are of one place, they are left out together. With one label per class leaving one
    out leaves a class unknown: then `default_penalty` is used.

    Args:
        penalties: the candidates.
        default_penalty: used when no class has two labels.
        standardise: features are centred ("centre"), and divided by their standard deviation ("zscore") or the root
            of it ("partial"); see `Standardise`.
    """

    def __init__(self, penalties: Sequence[float], default_penalty: float, standardise: str) -> None:
        if not penalties or min(penalties) <= 0:
            raise ValueError(f"penalties must be positive numbers, not {list(penalties)}")
        self.penalties = [float(p) for p in penalties]
        self.default_penalty = float(default_penalty)
        self.standardise = standardise
        self.details: dict[str, Any] = {}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> RidgeProbe:
        """Fit to features (n, D) and labels (n,); nothing is random, the seed is not used."""
        check_training_set(features, labels, n_classes)
        self._scaler = Standardise(self.standardise).fit(features)
        x = self._scaler(features).double()  # (n, D)
        n = len(x)
        y = torch.nn.functional.one_hot(labels, n_classes).double()  # (n, K)
        mean_x, mean_y = x.mean(0), y.mean(0)
        z, axes, energy = principal_axes(x - mean_x)
        target = z.T @ (y - mean_y)  # (r, K)
        several = bool(torch.bincount(labels, minlength=n_classes).max() > 1)
        errors = []
        if several:
            left_out = _leave_one_out if self.groups is None else partial(_leave_group_out, self.groups)
            errors = [left_out(z, energy, target, y - mean_y, p * n) for p in self.penalties]
        penalty = self.penalties[min(range(len(errors)), key=errors.__getitem__)] if errors else self.default_penalty
        self.weight = axes @ (target / (energy + penalty * n)[:, None])  # (D, K)
        self.bias = mean_y - mean_x @ self.weight
        self.bias[mean_y == 0] = -torch.inf  # a class without labels is never predicted
        self.details = {
            "penalty": penalty,
            "chosen_by": "leave-one-out" if errors else "default",
            "penalties": self.penalties,
            "loo_errors": errors,
            "standardise": self.standardise,
        }
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to scores (m, n_classes) float32, regressed one-hot targets; -inf for unlabelled classes."""
        return (self._scaler(features).double() @ self.weight + self.bias).float()

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the linear layer on features as they are that gives the scores."""
        return self._scaler.unfold(self.weight.T, self.bias)

    def head(self) -> LinearHead:
        weight, bias = self.layer()
        return LinearHead(CONFIDENCE * weight, CONFIDENCE * bias)


def _leave_one_out(z: Tensor, energy: Tensor, target: Tensor, y: Tensor, penalty: float) -> float:
    """Mean squared leave-one-out residual; the intercept is refitted too (its leverage is 1 / n)."""
    damped = 1 / (energy + penalty)  # (r,)
    leverage = 1 / len(z) + (z * z) @ damped  # (n,)
    residual = y - z @ (target * damped[:, None])  # (n, K)
    return float((residual / (1 - leverage).clamp_min(1e-9)[:, None]).square().sum(1).mean())


def _leave_group_out(groups: Tensor, z: Tensor, energy: Tensor, target: Tensor, y: Tensor, penalty: float) -> float:
    """The same with all samples of a group (n,) left out together: (I - H_gg)^-1 times the group's residuals."""
    damped = 1 / (energy + penalty)
    residual, total = y - z @ (target * damped[:, None]), 0.0
    for g in torch.unique(groups):
        mine = groups == g
        hat = 1 / len(z) + (z[mine] * damped) @ z[mine].T
        rest = (1 + 1e-9) * torch.eye(len(hat), dtype=z.dtype) - hat
        total += float(torch.linalg.solve(rest, residual[mine]).square().sum())
    return total / len(z)
