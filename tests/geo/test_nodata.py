"""Frames of one value around a scene, declared by nobody: told where they are, and not where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsssl.data.scene_file import SceneFile
from rsssl.errors import UserError
from rsssl.geo import nodata
from rsssl.geo.nodata import as_number, frame_of, refuse_frame

gdal = pytest.importorskip("osgeo.gdal")


def scene(tmp_path: Path, pixels: np.ndarray, declared: float | None = None) -> SceneFile:
    gdal.UseExceptions()
    kind = {"uint8": gdal.GDT_Byte, "int16": gdal.GDT_Int16, "float32": gdal.GDT_Float32}[pixels.dtype.name]
    c, h, w = pixels.shape
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
    made = gdal.GetDriverByName("GTiff").Create(str(path), w, h, c, kind)
    for i in range(c):
        if declared is not None:
            made.GetRasterBand(i + 1).SetNoDataValue(declared)
        made.GetRasterBand(i + 1).WriteRaster(0, 0, w, h, pixels[i].tobytes())
    del made
    opened = SceneFile(path)
    opened.use(opened.colour_bands())
    return opened


def textured(dtype: str = "uint8", bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 200, (bands, 300, 400)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("spots", [False, True])
def test_a_frame_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, spots: bool) -> None:
    if spots:
        monkeypatch.setattr(nodata, "STEP", 0)  # as for scenes that are too large to be read whole
    pixels = textured(dtype)
    across, down = np.meshgrid(np.arange(400), np.arange(300))
    pixels[:, across + down < 150] = 0  # a corner
    assert frame_of(scene(tmp_path, pixels)) == 0
    with pytest.raises(UserError, match=r"a frame of 0 in all bands.*scene_nodata=0 .*scene_nodata=none"):
        refuse_frame(scene(tmp_path, pixels), None, "scene_nodata")
    refuse_frame(scene(tmp_path, pixels), "none", "scene_nodata")
    refuse_frame(scene(tmp_path, pixels), 0, "scene_nodata")
    assert frame_of(scene(tmp_path, pixels, declared=0)) is None, "it is nodata already"


def test_what_is_no_frame_is_left_alone(tmp_path: Path) -> None:
    assert frame_of(scene(tmp_path, textured())) is None
    lake = textured()
    lake[:, 100:200, 100:300] = 0
    assert frame_of(scene(tmp_path, lake)) is None, "it does not touch the edge"
    line = textured()
    line[:, 0] = 255
    assert frame_of(scene(tmp_path, line)) is None, "a line of pixels is less than a hundredth"
    one = textured()
    one[0, :, :100] = 0
    assert frame_of(scene(tmp_path, one)) is None, "one band only"
    middle = textured()
    middle[:, :, :100] = 100
    assert frame_of(scene(tmp_path, middle)) is None, "a value between others"
    grey = textured(bands=1)
    grey[:, :, :100] = 77
    assert frame_of(scene(tmp_path, grey)) is None, "a value that a single band may well have"
    grey[:, :, :100] = 255
    assert frame_of(scene(tmp_path, grey)) == 255


def test_what_is_typed_is_a_number_or_none() -> None:
    assert as_number(None, "k") is None and as_number("none", "k") is None and as_number("255", "k") == 255
    with pytest.raises(UserError, match=r"k=abc is no number: type for example k=0, or k=none"):
        as_number("abc", "k")
