"""Which bands of a tile are shown, and with which contrast."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rsssl.report.tiles import contrast, picture, png, shown_bands


def test_bands_are_shown_by_their_names() -> None:
    assert shown_bands(["B01", "B02", "B03", "B04"]) == [3, 2, 1]
    assert shown_bands(["Blue", "green", "RED", "nir"]) == [2, 1, 0]
    assert shown_bands(["vv", "vh"]) == [0, 0, 0] and shown_bands(["x", "y", "z", "w"]) == [0, 1, 2]


def test_contrast_goes_from_black_to_white() -> None:
    tile = np.random.default_rng(0).normal(5, 2, (20, 30, 3))
    low, high = contrast(tile)
    assert (tile < low).mean() < 0.021 and (tile > high).mean() < 0.021
    image = picture(tile, low, high)
    expected = np.interp(tile, [low, high], [0, 255])
    assert np.abs(np.asarray(image) - expected).max() <= 0.51
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), np.asarray(image))
    assert not np.asarray(picture(np.ones((2, 2, 3)), 1, 1)).any(), "without contrast all is black"
