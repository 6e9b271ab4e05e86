"""Small made-up datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsssl.data.raster import write_geotiff


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of `n` RGB PNGs in each of `classes`; pixels are noise."""

    def make(n: int = 4, classes: tuple[str, ...] = ("field", "water"), size: int = 16) -> Path:
        root = tmp_path / "pictures"
        random = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i:04d}.png")
        return root

    return make


@pytest.fixture
def rasters(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of GeoTIFFs, one class, from a list of arrays (C, H, W)."""

    def make(arrays: list[np.ndarray], nodata: float | None = None, names: list[str] | None = None) -> Path:
        root = tmp_path / "rasters"
        (root / "one").mkdir(parents=True)
        for i, array in enumerate(arrays):
            write_geotiff(root / "one" / f"{i:04d}.tif", array, nodata=nodata, band_names=names)
        return root

    return make
