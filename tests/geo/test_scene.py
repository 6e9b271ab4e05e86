"""Scenes: which band is which, what fits the card, what is nodata, and what lies beyond the edge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.raster import import_gdal, write_geotiff
from rsssl.errors import UserError
from rsssl.geo.bands import choose
from rsssl.geo.scene import Scene
from rsssl.models.card import SensorCard

pytest.importorskip("osgeo")
UTM = (500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -10.0)


def card(bands: tuple[str, ...] = ("red", "green", "blue"), dtype: str = "uint8", **changes: object) -> SensorCard:
    n = len(bands)
    plain = SensorCard(
        "tiles", bands, dtype, (0.0,) * n, (255.0,) * n, None, (0.4,) * n, (0.2,) * n, ("a", "b"), (16, 16)
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def values(shape: tuple[int, ...], seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).normal(102, 40, shape).clip(1, 254).astype(dtype)


def scene_file(path: Path, array: np.ndarray, names: tuple[str, ...] | None = None, **more: object) -> Path:
    write_geotiff(path, array, UTM, "EPSG:32632", band_names=names, **more)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("names", "bands", "expected"),
    [
        (["blue", "green", "red", "nir"], None, [3, 2, 1]),
        (["B1", "RED", "Green", "Blue"], None, [2, 3, 4]),
        (["", "", "", ""], [4, 1, 2], [4, 1, 2]),
        (["a", "b", "c", "d"], ["c", "D", 1], [3, 4, 1]),
    ],
)
def test_bands_by_name_and_by_number(names: list[str], bands: list | None, expected: list[int]) -> None:
    assert choose(names, card(), bands, "s.tif") == expected


def test_bands_that_their_names_contradict_are_said(caplog: pytest.LogCaptureFixture) -> None:
    names = ["red", "green", "blue", "nir"]
    assert choose(names, card(), [1, 2, 3], "s.tif") == [1, 2, 3] and not caplog.text
    assert choose(names, card(), [4, 3, 2], "s.tif") == [4, 3, 2]
    assert "reads nir, blue, green as red, green, blue; by their names they are bands=[1, 2, 3]" in caplog.text


def test_bands_without_names_in_order_when_the_numbers_agree() -> None:
    assert choose(["", "", ""], card(), None, "s.tif") == [1, 2, 3]
    assert choose(["x", "y"], card(("band1", "band2")), None, "s.tif") == [1, 2]


@pytest.mark.parametrize(
    ("names", "bands", "message"),
    [
        (["", "", "", ""], None, "Not found by name: red, green, blue"),
        (["Red band, 600 nm", "Green band", "Blue band"], None, r"1 Red band, 600 nm, 2 Green band"),
        (["red", "green"], None, "Not found by name: blue"),
        (["", "", ""], [1, 2], "names 2 bands"),
        (["", "", ""], [1, 2, 4], "no band 4"),
        (["", "", ""], [0, 1, 2], "no band 0"),
        (["a", "b", "c"], ["a", "b", "e"], "no band e"),
    ],
)
def test_bands_that_do_not_fit_are_refused_with_what_to_type(
    names: list[str], bands: list | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        choose(names, card(), bands, "s.tif")
    assert "type bands=[...]" in str(error.value)


def test_reading_is_the_array_mirrored_beyond_the_edge(tmp_path: Path) -> None:
    array = values((3, 20, 7))
    scene = Scene(scene_file(tmp_path / "s.tif", array), card())
    padded = np.pad(array, ((0, 0), (0, 25), (0, 30)), mode="symmetric")
    window = scene.read(0, 0, 45, 37)
    np.testing.assert_array_equal(window.values, padded.astype(np.float32))
    assert window.outside is not None and window.missing is None
    np.testing.assert_array_equal(~window.outside, np.pad(np.ones((20, 7), bool), ((0, 25), (0, 30))))
    inner = scene.read(3, 2, 10, 4)
    np.testing.assert_array_equal(inner.values, array[:, 3:13, 2:6])
    assert inner.outside is None


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 40), (3, 40, 1)])
def test_a_line_of_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = values(shape)
    window = Scene(scene_file(tmp_path / "s.tif", array), card()).read(0, 0, 64, 64)
    expected = np.pad(array, ((0, 0), (0, 64 - shape[1]), (0, 64 - shape[2])), mode="symmetric")
    np.testing.assert_array_equal(window.values, expected)


def test_nodata_in_all_bands_is_outside_in_one_it_is_missing(tmp_path: Path) -> None:
    array = values((3, 12, 12))
    array[:, :3] = 0
    array[1, 5, 5] = 0
    array[:, 8, 8] = 255
    path = scene_file(tmp_path / "s.tif", array, nodata=0)
    window = Scene(path, card()).read(0, 0, 12, 12)
    assert window.outside is not None and window.missing is not None
    np.testing.assert_array_equal(window.outside, (array == 0).all(0))
    np.testing.assert_array_equal(window.missing, array == 0)
    asked = Scene(path, card(), nodata=255).read(0, 0, 12, 12)
    assert asked.outside is not None
    np.testing.assert_array_equal(asked.outside, (array == 0).all(0) | (array == 255).all(0))


def test_nan_and_an_alpha_band_are_outside(tmp_path: Path) -> None:
    array = values((3, 12, 12)).astype(np.float32)
    array[:, 0] = np.nan
    plain = card(dtype="float32")
    window = Scene(scene_file(tmp_path / "f.tif", array), plain).read(0, 0, 12, 12)
    assert window.outside is not None
    np.testing.assert_array_equal(window.outside, np.isnan(array[0]))
    gdal = import_gdal("a.tif")
    driver, options = gdal.GetDriverByName("GTiff"), ["ALPHA=YES", "PHOTOMETRIC=RGB"]
    dataset = driver.Create(str(tmp_path / "a.tif"), 12, 12, 4, gdal.GDT_Byte, options)
    four = np.concatenate([values((3, 12, 12)), np.full((1, 12, 12), 255, np.uint8)])
    four[3, :, :4] = 0
    dataset.WriteRaster(0, 0, 12, 12, four.tobytes())
    dataset = None
    scene = Scene(tmp_path / "a.tif", card())  # its colours name its bands
    assert scene.bands == [1, 2, 3]
    window = scene.read(0, 0, 12, 12)
    assert window.outside is not None
    np.testing.assert_array_equal(window.outside, four[3] == 0)


def test_another_type_is_refused_and_cast_when_asked(tmp_path: Path) -> None:
    array = values((3, 30, 30), dtype=np.int16)
    path = scene_file(tmp_path / "s.tif", array)
    with pytest.raises(UserError, match=r"holds int16, the classifier was trained on uint8 .*values=cast"):
        Scene(path, card())
    np.testing.assert_array_equal(Scene(path, card(), values="cast").read(0, 0, 30, 30).values, array)


def test_values_of_another_range_are_refused_by_band_and_adapted_when_asked(tmp_path: Path) -> None:
    array = values((3, 200, 150), dtype=np.uint16)
    array[2] = array[2] * 40 + 3000
    path = scene_file(tmp_path / "s.tif", array)
    sixteen = card(dtype="uint16")
    with pytest.raises(UserError, match="the values of") as error:
        Scene(path, sixteen)
    assert "blue: the scene's mean is" in str(error.value) and "red" not in str(error.value)
    adapted = Scene(path, sixteen, values="moments").read(0, 0, 200, 150).values
    for band in adapted:
        assert band.mean() == pytest.approx(0.4 * 255, abs=2)
        assert band.std() == pytest.approx(0.2 * 255, abs=2)


def test_a_scene_of_nothing_but_nodata_opens(tmp_path: Path) -> None:
    window = Scene(scene_file(tmp_path / "s.tif", np.zeros((3, 9, 9), np.uint8), nodata=0), card()).read(0, 0, 9, 9)
    assert window.outside is not None and window.outside.all()


def test_what_is_no_raster_is_said(tmp_path: Path) -> None:
    (tmp_path / "s.tif").write_bytes(b"not a raster")
    for name in ("s.tif", "none.tif"):
        with pytest.raises(UserError, match=f"{name} cannot be opened as a raster"):
            Scene(tmp_path / name, card())


def test_metres_a_pixel(tmp_path: Path) -> None:
    assert Scene(scene_file(tmp_path / "s.tif", values((3, 9, 9))), card()).metres() == pytest.approx(10)
    write_geotiff(tmp_path / "g.tif", values((3, 9, 9)), (10.0, 0.0001, 0, 60.0, 0, -0.0001), "EPSG:4326")
    assert Scene(tmp_path / "g.tif", card()).metres() == pytest.approx(11.132 * 0.5**0.5, rel=0.01)
    write_geotiff(tmp_path / "n.tif", values((3, 9, 9)))
    assert Scene(tmp_path / "n.tif", card()).metres() is None


def test_real_scenes_fit_or_are_refused(shared_data: Path) -> None:
    """What an RGB classifier, and a 13-band one, say to each of the real scenes."""
    scenes = shared_data / "scenes"
    rgb = card()
    naip = scenes / "naip_4band_uint8_nodata0.tif"
    with pytest.raises(UserError, match=r"type bands=\[\.\.\.\]"):
        Scene(naip, rgb)
    assert Scene(naip, rgb, bands=[1, 2, 3]).bands == [1, 2, 3]
    coast = scenes / "sentinel2_coast_8band_uint8.tif"
    assert Scene(coast, rgb, bands=["B04", "B03", "B02"], nodata=255, values="moments").bands == [4, 3, 2]
    with pytest.raises(UserError, match="holds uint16, the classifier was trained on uint8"):
        Scene(scenes / "satellogic_4band_uint16_utm.tif", rgb, bands=[1, 2, 3])
    with pytest.raises(UserError, match="holds int16"):
        Scene(scenes / "landsat7_8band_int16_nodata-9999.tif", rgb, bands=[3, 2, 1])
    thirteen = card((*(f"B{i:02d}" for i in range(1, 13)), "B8A"), "uint16", high=(10_000.0,) * 13)
    for scene in scenes.glob("*.tif"):
        with pytest.raises(UserError, match="trained on 13 bands"):
            Scene(scene, thirteen)
