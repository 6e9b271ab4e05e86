"""The image-statistics baseline: what a classifier reaches that sees no texture at all."""

from __future__ import annotations

import numpy as np

from rsssl.models.card import SensorCard


def image_statistics(images: np.ndarray, card: SensorCard, block_bytes: int = 32 << 20) -> np.ndarray:
    """Per-band mean, standard deviation, minimum and maximum of each image.

    Args:
        images: (N, C, H, W) in the sensor's own type, a memory map too: it is read in blocks.
        card: the valid range (mapped to 0..1; values beyond it are clipped), nodata (counts for nothing) and the bands'
            means, which stand in for a band without any valid pixel.
        block_bytes: of pixels, as float32, in work at a time.

    Returns:
        (N, 4 C) float32 in 0..1 units: all means, then all standard deviations, minima, maxima.
    """
    n, c = images.shape[:2]
    low = np.asarray(card.low, np.float32).reshape(1, c, 1)
    high = np.asarray(card.high, np.float32).reshape(1, c, 1)
    out = np.empty((n, 4 * c), np.float32)
    block = max(1, block_bytes // max(1, 4 * int(np.prod(images.shape[1:]))))
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
        some, seen = np.maximum(count, 1), count > 0
        mean = np.where(valid, unit, 0).sum(2) / some
        spread = np.where(valid, unit - mean[:, :, None], 0)
        least, most = np.where(valid, unit, np.inf).min(2), np.where(valid, unit, -np.inf).max(2)
        mean, least, most = (np.where(seen, values, fallback) for values in (mean, least, most))
        parts = [mean, np.sqrt(np.square(spread).sum(2) / some), least, most]
    return np.concatenate(parts, axis=1).astype(np.float32)
