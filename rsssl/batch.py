"""One step's input: what the loader makes, the loop hands over and the methods learn from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """Views of B images.

    Args:
        ids: (B,) int64 numbers of the images in the pool.
        epoch: the pass over the pool, from 0.
        views: (V, B, C, S, S) float32, standardised; V views of the same B images.
        labels: (B,) int64 classes, where the pool has them.
        local: (L, B, C, s, s) the small views of a multi-crop augmentation.
        key: of the random numbers that a method draws.
        places: (B,) int64 the place that each image shows, where odd views show another image of it.
    """

    ids: Tensor
    epoch: int
    views: Tensor
    labels: Tensor | None = None
    local: Tensor | None = None
    key: int = 0
    places: Tensor | None = None
