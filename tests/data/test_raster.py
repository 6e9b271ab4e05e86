"""The reader and the GeoTIFF writer, against GDAL and Pillow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsssl.data import geotiff, raster
from rsssl.data.raster import BadImage, read, write_geotiff
from rsssl.errors import UserError

CORNER = (500000.0, 10.0, 0.0, 5400000.0, 0.0, -10.0)


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, shape)
    return (values - 100 if dtype in ("int16", "float32") else values).astype(dtype)


@pytest.mark.parametrize("compress", ["deflate", None])
@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 3), ("uint8", 1), ("uint16", 13), ("int16", 2), ("float32", 4)])
def test_what_is_written_gdal_reads(tmp_path: Path, dtype: str, bands: int, compress: str | None) -> None:
    gdal = pytest.importorskip("osgeo.gdal")
    gdal.UseExceptions()
    array = noise((bands, 300, 470), dtype)  # several strips
    names = [f"band {i} <& 'x'>" for i in range(bands)]
    write_geotiff(tmp_path / "a.tif", array, CORNER, "EPSG:32632", 7.0, names, compress)
    source = gdal.Open(str(tmp_path / "a.tif"))
    assert np.array_equal(np.frombuffer(source.ReadRaster(), dtype).reshape(array.shape), array)
    assert source.GetGeoTransform() == CORNER
    assert source.GetSpatialRef().GetAuthorityCode(None) == "32632"
    assert [source.GetRasterBand(i + 1).GetDescription() for i in range(bands)] == names
    assert source.GetRasterBand(bands).GetNoDataValue() == 7.0


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["TILED=YES", "BLOCKXSIZE=32", "BLOCKYSIZE=16", "COMPRESS=DEFLATE", "PREDICTOR=2"],
        ["INTERLEAVE=BAND", "COMPRESS=DEFLATE", "ENDIANNESS=BIG"],
        ["INTERLEAVE=BAND", "TILED=YES", "BLOCKXSIZE=16", "BLOCKYSIZE=16"],
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_what_gdal_writes_is_read_without_gdal(tmp_path: Path, dtype: str, options: list[str]) -> None:
    gdal = pytest.importorskip("osgeo.gdal")
    kinds = {"uint8": gdal.GDT_Byte, "uint16": gdal.GDT_UInt16, "int16": gdal.GDT_Int16}
    array = noise((4, 75, 53), dtype)
    target = gdal.GetDriverByName("GTiff").Create(str(tmp_path / "a.tif"), 53, 75, 4, kinds[dtype], options)
    target.WriteRaster(0, 0, 53, 75, array.tobytes())
    target.GetRasterBand(1).SetNoDataValue(3)
    target = None
    image = geotiff.read(tmp_path / "a.tif")
    assert image.pixels.dtype == dtype and np.array_equal(image.pixels, array) and image.nodata == 3


def test_a_round_trip_without_gdal(tmp_path: Path) -> None:
    array = noise((13, 64, 64), "uint16")
    geotiff.write(tmp_path / "a.tif", array, CORNER, "EPSG:32632", None, [f"B{i}" for i in range(13)])
    image = geotiff.read(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, array)
    assert image.nodata is None and image.names == tuple(f"B{i}" for i in range(13))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["BLOCKYSIZE=7"],
        ["INTERLEAVE=BAND", "BLOCKYSIZE=7"],
        ["TILED=YES", "BLOCKXSIZE=32", "BLOCKYSIZE=16"],
        ["SPARSE_OK=TRUE", "TILED=YES", "BLOCKXSIZE=16", "BLOCKYSIZE=16"],
        ["COMPRESS=DEFLATE", "PREDICTOR=2", "BIGTIFF=YES"],
        ["COMPRESS=LZW"],
        ["COMPRESS=PACKBITS", "ENDIANNESS=BIG"],
    ],
)
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint16", None), ("int16", -32768), ("float32", -3.4028235e38)]
)
def test_a_tiff_is_what_gdal_says_it_is(tmp_path: Path, dtype: str, nodata: float | None, options: list[str]) -> None:
    gdal = pytest.importorskip("osgeo.gdal")
    gdal.UseExceptions()
    kinds = {"uint8": gdal.GDT_Byte, "uint16": gdal.GDT_UInt16, "int16": gdal.GDT_Int16, "float32": gdal.GDT_Float32}
    path = tmp_path / "a.tif"
    target = gdal.GetDriverByName("GTiff").Create(str(path), 53, 75, 4, kinds[dtype], options)
    target.WriteRaster(0, 0, 53, 30, noise((4, 30, 53), dtype).tobytes())  # the rest is left as it comes
    if nodata is not None:
        target.GetRasterBand(1).SetNoDataValue(nodata)
    target.GetRasterBand(2).SetDescription("second & last")
    target = None
    ours, theirs = read(path), raster._gdal(path)
    assert ours.pixels.dtype == theirs.pixels.dtype and np.array_equal(ours.pixels, theirs.pixels)
    assert ours.names == theirs.names == ("", "second & last", "", "")
    kept = [r.pixels.dtype.type(r.nodata) if r.nodata is not None else None for r in (ours, theirs)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("compress", ["deflate", None])
def test_what_a_file_beside_the_tiff_says_comes_first(tmp_path: Path, compress: str | None) -> None:
    gdal = pytest.importorskip("osgeo.gdal")
    gdal.UseExceptions()
    path = tmp_path / "a.tif"
    write_geotiff(path, noise((1, 16, 16), "uint16"), nodata=7, band_names=["a"], compress=compress)
    assert read(path).nodata == 7 and read(path).names == ("a",)
    source = gdal.Open(str(path))  # opened for reading, GDAL keeps changes in a.tif.aux.xml
    source.GetRasterBand(1).SetNoDataValue(9)
    source = None
    assert path.with_name("a.tif.aux.xml").is_file()
    assert read(path).nodata == 9


@pytest.mark.parametrize(
    "text",
    ["1_0", "1,5", "0x10", " 7", "7 ", "+3", "nan", "-inf", "1e400", "12abc", "", ".5", "-9999.0", "none", "1 2"],
)
@pytest.mark.parametrize("compress", ["deflate", None])
def test_nodata_is_the_number_that_gdal_makes_of_it(tmp_path: Path, text: str, compress: str | None) -> None:
    """Python's float knows other spellings than C, as 1_0 for ten."""
    pytest.importorskip("osgeo.gdal")
    path = tmp_path / "a.tif"
    write_geotiff(path, noise((1, 16, 16), "float32"), nodata=1.2345678901234567, compress=compress)
    content = path.read_bytes()
    old = b"1.2345678901234567\0"
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, text.encode().ljust(len(old), b"\0")))
    expected = raster._gdal(path).nodata
    assert str(read(path).nodata) == str(expected)
    try:
        assert str(geotiff.read(path).nodata) == str(expected)
    except geotiff.Unsupported:
        assert text in ("1,5", "0x10", "12abc", "1_0", "none", "1 2", ".5")


def test_palette_bits_and_reversed_bits_are_left_to_gdal(tmp_path: Path) -> None:
    pytest.importorskip("osgeo.gdal")
    grey = Image.fromarray(noise((20, 24), "uint8"))
    grey.convert("1").save(tmp_path / "bits.tif")
    grey.convert("P").save(tmp_path / "palette.tif")
    content = bytearray()
    geotiff.write(tmp_path / "plain.tif", noise((1, 20, 24), "uint8"), compress=None)
    content[:] = (tmp_path / "plain.tif").read_bytes()
    entry = content.rfind(bytes([0x06, 0x01, 3, 0]))  # photometric interpretation becomes FillOrder = 2, in its place
    content[entry : entry + 12] = bytes([0x0A, 0x01, 3, 0, 1, 0, 0, 0, 2, 0, 0, 0])
    (tmp_path / "reversed.tif").write_bytes(content)
    for name in ("bits", "palette", "reversed"):
        with pytest.raises(geotiff.Unsupported):
            geotiff.read(tmp_path / f"{name}.tif")
        assert np.array_equal(read(tmp_path / f"{name}.tif").pixels, raster._gdal(tmp_path / f"{name}.tif").pixels)


def test_the_real_tiles_read_the_same_with_and_without_gdal(shared_data: Path) -> None:
    pytest.importorskip("osgeo.gdal")
    for path in sorted((shared_data / "EuroSAT_MS" / "River").glob("*.tif"))[:3]:
        assert np.array_equal(geotiff.read(path).pixels, raster._gdal(path).pixels)


def test_gdal_missing_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("osgeo", "osgeo.gdal"):
        monkeypatch.setitem(sys.modules, name, None)
    raster.has_gdal.cache_clear()
    try:
        write_geotiff(tmp_path / "plain.tif", noise((3, 9, 9), "uint8"))
        assert read(tmp_path / "plain.tif").pixels.shape == (3, 9, 9)
        (tmp_path / "a.jp2").write_bytes(b"whatever")
        with pytest.raises(UserError, match=r"apt-get install.*libgdal-dev"):
            read(tmp_path / "a.jp2")
    finally:
        raster.has_gdal.cache_clear()


@pytest.mark.parametrize(("mode", "as_rgb"), [("L", "grey"), ("P", "palette"), ("CMYK", "CMYK"), ("RGBA", "alpha")])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str, as_rgb: str) -> None:
    picture = Image.fromarray(noise((20, 20, 3), "uint8")).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    picture.save(path)
    image = read(path, 3)
    assert image.converted == as_rgb and image.pixels.shape == (3, 20, 20)
    assert np.array_equal(image.pixels.transpose(1, 2, 0), np.asarray(Image.open(path).convert("RGB")))


def test_grey_stays_grey_where_one_band_is_expected(tmp_path: Path) -> None:
    Image.fromarray(noise((20, 20), "uint8")).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 1).pixels.shape == (1, 20, 20)


def test_16_bit_png_is_not_cut_to_8_bits(tmp_path: Path) -> None:
    grey = (noise((20, 20), "uint16") * 300).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png", 3)
    assert image.pixels.dtype == np.uint16 and np.array_equal(image.pixels[0], grey)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_damaged_files_are_told_apart(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(BadImage, match=r"empty"):
        read(path)
    path.write_bytes(b"just some words, and no picture at all")
    with pytest.raises((BadImage, UserError), match=r"not an image|GDAL"):
        read(path)
    if name == "a.tif":
        write_geotiff(path, noise((3, 64, 64), "uint8"), compress=None)
    else:
        Image.fromarray(noise((64, 64, 3), "uint8")).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(BadImage, match=r"damaged|cut short|not an image"):
        read(path)


def test_importing_the_data_package_is_cheap() -> None:
    code = "import sys, rsssl.data; print(*{m.split('.')[0] for m in sys.modules})"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "rsssl" in modules and not {"torch", "PIL", "osgeo", "tqdm"} & set(modules)
