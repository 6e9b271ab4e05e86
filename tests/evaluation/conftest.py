"""Made-up features with classes that overlap, like those of a real backbone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def make() -> Callable[..., tuple[Tensor, Tensor]]:
    """make(per_class, d, classes, seed, draw=0, spread=3.0) -> features (classes * per_class, d) float32, labels.

    `seed` makes the classes, `draw` draws other samples of them.
    """
    return _make


def _make(per_class: int, d: int, classes: int, seed: int, draw: int = 0, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    world = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=world)
    mix = torch.randn(d, d, generator=world) * torch.logspace(0, -1, d)  # correlated, of uneven spread
    noise = torch.Generator().manual_seed(1000 * seed + draw + 1)
    y = torch.arange(classes).repeat_interleave(per_class)
    x = centres[y] @ mix + spread * torch.randn(len(y), d, generator=noise) @ mix
    return x / d**0.5, y
