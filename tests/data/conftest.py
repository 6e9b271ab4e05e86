"""Small made-up datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

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


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket `tiles` of a server on this machine that speaks S3; the environment names the server."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    for name, value in (keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": os.devnull}).items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # servers of one process share all
    s3fs.S3FileSystem.clear_instance_cache()  # one of another test would ask that test's server
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("tiles")
    yield files
    server.stop()
