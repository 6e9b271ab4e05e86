"""The image-statistics baseline: what a classifier reaches that sees no texture at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rsssl.models.card import SensorCard

BLOCK = 32 << 20  # bytes of pixels in work at a time


def image_statistics(images: np.ndarray, card: SensorCard | Any) -> np.ndarray:
    """Per-band mean, standard deviation, minimum and maximum of each image.

    Args:
        images: (N, C, H, W) in the sensor's own type, a memory map too: it is read in blocks.
        card: `low`, `high` (C,) the valid range mapped to 0..1 (values beyond it are clipped), `nodata` a value that
            counts for nothing (or None) and `mean` (C,), which stands in for a band without any valid pixel.

    Returns:
        (N, 4 C) float32 in 0..1 units: all means, then all standard deviations, minima, maxima.
    """
    n, c = images.shape[:2]
    low = np.asarray(card.low, np.float32).reshape(1, c, 1)
    high = np.asarray(card.high, np.float32).reshape(1, c, 1)
    out = np.empty((n, 4 * c), np.float32)
    block = max(1, BLOCK // max(1, 4 * int(np.prod(images.shape[1:]))))
    for start in range(0, n, block):
        raw = np.asarray(images[start : start + block]).reshape(-1, c, images.shape[2] * images.shape[3])
        unit = np.clip((raw.astype(np.float32) - low) / (high - low), 0, 1)
        valid = np.isfinite(unit)
        if card.nodata is not None:
            valid &= raw != card.nodata
        out[start : start + block] = _summary(unit, valid, np.asarray(card.mean, np.float32))
    return out


def _summary(unit: np.ndarray, valid: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """unit, valid (B, C, pixels), fallback (C,) -> (B, 4 C)."""
    if valid.all():
        parts = [unit.mean(2), unit.std(2), unit.min(2), unit.max(2)]
    else:
        count = valid.sum(2)
        some = np.maximum(count, 1)
        mean = np.where(valid, unit, 0).sum(2) / some
        spread = np.where(valid, unit - mean[:, :, None], 0)
        parts = [
            np.where(count > 0, mean, fallback),
            np.sqrt(np.square(spread).sum(2) / some),
            np.where(count > 0, np.where(valid, unit, np.inf).min(2), fallback),
            np.where(count > 0, np.where(valid, unit, -np.inf).max(2), fallback),
        ]
    return np.concatenate(parts, axis=1).astype(np.float32)
