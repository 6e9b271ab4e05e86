"""Tiles as people see them: their contrast, and PNG files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def contrast(values: np.ndarray) -> tuple[float, float]:
    """What becomes black and what becomes white: the 2nd and the 98th percentile of all values, which keeps their
    hues."""
    low, high = np.percentile(values, [2, 98])
    return float(low), float(high)


def picture(tile: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W, 3) in any unit as an image, `low` and less black, `high` and more white."""
    share = np.clip((tile - low) / max(high - low, 1e-3), 0, 1)
    return Image.fromarray((255 * share).round().astype(np.uint8))


def png(image: Image.Image, **options: Any) -> bytes:
    """The content of a PNG file. `options` are those of Pillow's writer."""
    content = io.BytesIO()
    image.save(content, format="PNG", **options)
    return content.getvalue()
