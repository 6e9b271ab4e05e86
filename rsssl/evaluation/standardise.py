"""Feature standardisation, fitted to the labelled images only."""

from __future__ import annotations

import torch
from torch import Tensor

from rsssl.errors import UserError
from rsssl.evaluation.on_disk import Features, in_parts

# a feature of standard deviation s is divided by s ** power
POWERS = {"centre": 0.0, "partial": 0.5, "zscore": 1.0}


class Standardise:
    """Centre the features, even out their spread, and scale so that the mean square norm of a sample is 1.

    The last step makes one regularisation strength mean the same for any backbone and dimension. How far the spread
    is evened out is a trade: "zscore" gives every feature an equal say, noise included, and with few labels its
    standard deviations are themselves noisy; "centre" keeps the features' own proportions; "partial" divides by the
    square root of the standard deviation. Features that do not vary over the labelled images are left out (0).
    """

    def __init__(self, kind: str = "partial") -> None:
        if kind not in POWERS:
            raise ValueError(f"standardise={kind!r} is not one of {', '.join(POWERS)}")
        self.kind = kind

    def fit(self, features: Tensor) -> Standardise:
        """Learn from features (n, D)."""
        x = features.double()
        self.mean = x.mean(0)
        spread = x.std(0, unbiased=False)
        alive = spread > 1e-6 * spread.max()
        self.scale = torch.where(alive, spread.clamp_min(1e-300) ** -POWERS[self.kind], torch.zeros_like(spread))
        norm = ((x - self.mean) * self.scale).square().sum(1).mean().sqrt()
        if norm > 0:
            self.scale /= norm
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """(m, D) to (m, D) float32."""
        return ((features.double() - self.mean) * self.scale).float()

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The layer on features as they are that equals weight (K, D), bias (K,) on standardised ones; float32."""
        plain = weight.double() * self.scale
        return plain.float(), (bias.double() - plain @ self.mean).float()


def check_training_set(features: Features, labels: Tensor, n_classes: int) -> None:
    """What every classifier asks of features (n, D) and labels (n,) before it is fitted.

    Raises:
        ValueError: shapes that do not fit together, or labels outside 0..n_classes-1.
        UserError: NaN or infinity among the features.
    """
    if features.ndim != 2 or tuple(labels.shape) != tuple(features.shape[:1]) or not len(labels):
        raise ValueError(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)} must be (n, D) and (n,), n > 0"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels {int(labels.min())}..{int(labels.max())} must be in 0..{n_classes - 1}")
    check_finite(features, "of the labelled images")


def check_finite(features: Features, whose: str) -> None:
    """Raises UserError for NaN or infinity among features."""
    if not all(torch.isfinite(part).all() for part in in_parts(features)):
        raise UserError(
            f"the features {whose} contain NaN or infinity: the backbone's weights have diverged. "
            "Pre-train again with a smaller learning rate, for example pretrain.lr=1e-4"
        )
