"""Image statistics against numpy, image by image, and what nodata does to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rsssl.evaluation.statistics import image_statistics
from rsssl.models.card import SensorCard

CARD = SensorCard(
    name="made up",
    bands=("a", "b"),
    dtype="uint16",
    low=(0.0, 100.0),
    high=(1000.0, 600.0),
    nodata=None,
    mean=(0.25, 0.75),
    std=(0.1, 0.1),
    classes=(),
    size=(5, 7),
)


def images(n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1200, (n, 2, 5, 7)).astype(np.uint16)


def test_equals_numpy() -> None:
    x = images()
    got = image_statistics(x, CARD, block_bytes=3 * 4 * 70)  # three images at a time
    assert got.shape == (20, 8) and got.dtype == np.float32
    for row, image in zip(got, x, strict=True):
        a = np.clip(image[0] / 1000, 0, 1)
        b = np.clip((image[1] - 100.0) / 500, 0, 1)
        want = [a.mean(), b.mean(), a.std(), b.std(), a.min(), b.min(), a.max(), b.max()]
        np.testing.assert_allclose(row, want, atol=1e-5)


def test_nodata_counts_for_nothing() -> None:
    x = images(2)
    x[0, 0, :2] = 0
    x[0, 1] = 0  # a band without a valid pixel
    valid = x[0, 0][x[0, 0] != 0] / 1000
    got = image_statistics(x, dataclasses.replace(CARD, nodata=0.0))
    v = np.clip(valid, 0, 1)
    np.testing.assert_allclose(got[0, ::2], [v.mean(), v.std(), v.min(), v.max()], atol=1e-5)
    np.testing.assert_allclose(got[0, 1::2], [0.75, 0.0, 0.75, 0.75])  # the card's mean stands in
    assert np.isfinite(got).all()


def test_float_nan_is_nodata_too() -> None:
    x = images(1).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    got = image_statistics(x, dataclasses.replace(CARD, dtype="float32"))
    assert got[0, 0] == pytest.approx(np.clip(x[0, 0].ravel()[1:] / 1000, 0, 1).mean(), abs=1e-5)


def test_memory_map(tmp_path: Path) -> None:
    x = images()
    x.tofile(tmp_path / "images.bin")
    mapped = np.memmap(tmp_path / "images.bin", x.dtype, "r", shape=x.shape)
    np.testing.assert_array_equal(image_statistics(mapped, CARD), image_statistics(x, CARD))
