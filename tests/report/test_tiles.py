"""With which contrast a tile is shown."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rsssl.report.tiles import contrast, picture, png


def test_contrast_goes_from_black_to_white() -> None:
    tile = np.random.default_rng(0).normal(5, 2, (20, 30, 3))
    low, high = contrast(tile)
    assert (tile < low).mean() < 0.021 and (tile > high).mean() < 0.021
    image = picture(tile, low, high)
    expected = np.interp(tile, [low, high], [0, 255])
    assert np.abs(np.asarray(image) - expected).max() <= 0.51
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), np.asarray(image))
    assert not np.asarray(picture(np.ones((2, 2, 3)), 1, 1)).any(), "without contrast all is black"
