"""Tiles as people see them: their bands, their contrast, thumbnails and PNG files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from rsssl.data.pack import Pack
from rsssl.models.card import SensorCard

SAMPLE = 100  # tiles that the contrast is taken of


def visible(images: np.ndarray, card: SensorCard, bands: list[int]) -> np.ndarray:
    """Stored (n, C, H, W) -> three bands (n, H, W, 3) float32 in 0..1 units; nodata and NaN are 0."""
    x = images[:, bands].astype(np.float32)
    low, high = (np.asarray(v, np.float32)[bands, None, None] for v in (card.low, card.high))
    absent = np.isnan(x) | (x == card.nodata if card.nodata is not None else False)
    return np.moveaxis(np.where(absent, 0, np.clip((x - low) / (high - low), 0, 1)), 1, 3)


def stretch(pack: Pack, rows: np.ndarray, bands: list[int]) -> tuple[float, float]:
    """What becomes black and white, in 0..1 units: plain bytes 0 and 1, else by the contrast of some of these tiles."""
    if pack.card.dtype == "uint8":
        return 0.0, 1.0
    sample = rows[:: -(-len(rows) // SAMPLE)]
    return contrast(visible(pack.read(sample)[:, :, ::4, ::4], pack.card, bands))


def contrast(values: np.ndarray) -> tuple[float, float]:
    """What becomes black and what becomes white: the 2nd and the 98th percentile of all values, which keeps their
    hues."""
    low, high = np.percentile(values, [2, 98])
    return float(low), float(high)


def picture(tile: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W, 3) in any unit as an image, `low` and less black, `high` and more white."""
    share = np.clip((tile - low) / max(high - low, 1e-3), 0, 1)
    return Image.fromarray((255 * share).round().astype(np.uint8))


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """The image with `side` pixels on its longer side."""
    scale = side / max(image.size)
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def png(image: Image.Image, **options: Any) -> bytes:
    """The content of a PNG file. `options` are those of Pillow's writer."""
    content = io.BytesIO()
    image.save(content, format="PNG", **options)
    return content.getvalue()
