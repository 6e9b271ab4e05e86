"""The linear probe: logistic regression on frozen features, its strength chosen inside the labelled images only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rsssl.evaluation.base import Probe, held_out_folds
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.linear import fit_linear
from rsssl.evaluation.standardise import Standardise, check_training_set


class LinearProbe(Probe):
    """Multinomial logistic regression with an L2 penalty on standardised features.

    The strength (scikit-learn's C for samples of unit mean square norm, so that it means the same for any D) is chosen
    by stratified cross-validation among the labelled images; the images that are tested on are never looked at. With
    five labels per class the accuracy there is mostly chance, and following it costs 1 to 3 points of test accuracy
    against a fixed strength; so the choice is held back: the strength with the most images right wins, after
    0.5 ln(strength / default)^2 images are taken off (a tenfold change must gain 2.7 images), which matters for 50
    images and not for 1,000. Where no class has two labels there is nothing to validate on: the default is used.

    Args:
        strengths: the candidates.
        default_strength: where the choice starts, and all there is at one label a class.
        folds: of the cross-validation; fewer when the largest class has fewer labels.
        max_cross_validated: with more labelled images than this, one fold is held out in place of rotating them all.
        standardise: features are centred ("centre"), and divided by their standard deviation ("zscore") or the root
            of it ("partial"); see `Standardise`.
        statistics: look at the bands' statistics in place of the network's features.
    """

    sharpness = 1.4  # measured at one label a class: with so few the penalty makes it too modest

    def __init__(
        self,
        strengths: Sequence[float],
        default_strength: float,
        folds: int,
        max_cross_validated: int,
        standardise: str,
        statistics: bool = False,
    ) -> None:
        if not strengths or min(strengths) <= 0 or default_strength <= 0:
            raise ValueError(f"strengths must be positive numbers: {list(strengths)}, default {default_strength}")
        if folds < 2:
            raise ValueError(f"folds must be at least 2, not {folds}")
        self.strengths = sorted(float(s) for s in strengths)
        self.default_strength = float(default_strength)
        self.folds, self.statistics = folds, statistics
        self.paper_head = not statistics
        self.max_cross_validated = max_cross_validated
        self.standardise = standardise
        self.details: dict[str, Any] = {}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> LinearProbe:
        """Fit to features (n, D) and labels (n,) int64; the seed deals the images to the folds.

        Raises:
            UserError: NaN or infinity among the features.
        """
        check_training_set(features, labels, n_classes)
        self._scaler = Standardise(self.standardise).fit(features)
        x = self._scaler(features)
        present, y = torch.unique(labels, return_inverse=True)
        self.details = {"standardise": self.standardise}
        strength = self._choose(x, y, seed)
        fit = fit_linear(x, y, [strength], tolerance=1e-3, max_iterations=500)
        # a class without labels is never predicted: its log-probability is minus infinity
        self.weight = x.new_zeros(n_classes, x.shape[1])  # (K, D)
        self.bias = x.new_full((n_classes,), -torch.inf)
        self.weight[present], self.bias[present] = fit.weight[0, 0].float(), fit.bias[0, 0].float()
        self.details |= {"strength": strength, "iterations": fit.iterations}
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to log-probabilities (m, n_classes) float32; -inf for classes without labels."""
        return (self._scaler(features) @ self.weight.T + self.bias).log_softmax(1)

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the linear layer on features as they are, whose softmax are the
        probabilities."""
        return self._scaler.unfold(self.weight, self.bias)

    def head(self) -> LinearHead:
        return LinearHead(*self.layer())

    def refitted(self, features: Tensor, labels: Tensor, n_classes: int, seed: int, known: Tensor) -> Tensor:
        """See `Probe.refitted`: with the strength that was chosen."""
        present, y = torch.unique(labels, return_inverse=True)
        strength = self.details["strength"]
        fit = fit_linear(self._scaler(features), y, [strength], masks=known, tolerance=3e-3, max_iterations=200)
        logits = torch.full((len(known), len(labels), n_classes), -torch.inf)
        return logits.index_copy_(2, present, fit.logits[:, 0].float())

    def _choose(self, x: Tensor, y: Tensor, seed: int) -> float:
        fold_of, rounds = held_out_folds(y, seed, self.folds, self.max_cross_validated, self.groups)
        self.details["chosen_by"] = "default"
        if rounds < 1 or len(self.strengths) < 2:
            return self.default_strength
        train = torch.stack([fold_of != r for r in range(rounds)])  # (F, n)
        # single precision and a loose optimum: this only ranks the strengths
        fit = fit_linear(x, y, self.strengths, masks=train, tolerance=3e-2, max_iterations=100, dtype=torch.float32)
        hit = (fit.logits.argmax(-1) == y).transpose(1, 2)[~train].double()  # (held out, S)
        moved = (torch.tensor(self.strengths, dtype=torch.float64) / self.default_strength).log()
        merit = hit.sum(0).cpu() - moved.square() / 2
        self.details["chosen_by"] = f"{rounds} of {int(fold_of.max()) + 1} folds"
        self.details["cv_accuracy"] = [round(float(a), 4) for a in hit.mean(0)]
        self.details["strengths"] = self.strengths
        return self.strengths[int(merit.argmax())]
