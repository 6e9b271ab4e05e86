"""Products against what GDAL reads back, gdal.Info and GDAL's own checker of cloud-optimised GeoTIFFs."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsssl.data.grid import Grid
from rsssl.errors import UserError
from rsssl.geo.product import Product, Values

gdal = pytest.importorskip("osgeo.gdal")
osr = pytest.importorskip("osgeo.osr")


def wkt(code: int) -> str:
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(code)
    return str(srs.ExportToWkt())


MAP = Values("uint8", 255, ["class"])
UTM, DEGREES = wkt(32632), wkt(4326)
NORTH_UP = (500000.0, 10.0, 0.0, 5400000.0, 0.0, -10.0)
GRIDS = {
    "north up": Grid(700, 530, NORTH_UP, UTM),
    "south up": Grid(530, 700, (500000.0, 10.0, 0.0, 5400000.0, 0.0, 10.0), UTM),
    "rotated": Grid(300, 200, (500000.0, 8.66, 5.0, 5400000.0, 5.0, -8.66), UTM),
    "degrees": Grid(600, 40, (11.25, 1 / 3600, 0.0, 48.125, 0.0, -1 / 3600), DEGREES),
    "mercator": Grid(64, 64, (1e6, 38.2, 0.0, 6e6, 0.0, -38.2), wkt(3857)),
    "swiss, with heights": Grid(30, 40, (2.6e6, 2.0, 0.0, 1.2e6, 0.0, -2.0), wkt(2056)),
    "nowhere": Grid(520, 20),
    "one pixel wide": Grid(1, 1300, NORTH_UP, UTM),
    "one pixel high": Grid(1300, 1, NORTH_UP, UTM),
    "one pixel": Grid(1, 1, NORTH_UP, UTM),
    "control points": Grid(
        100,
        80,
        None,
        "",
        ((0.5, 0.5, 11.0, 48.0, 0.0), (90.0, 2.0, 11.5, 48.0, 1.0), (3.0, 70.0, 11.0, 47.5, 2.0)),
        DEGREES,
    ),
}


def noise(grid: Grid, bands: int, dtype: str, high: int = 200) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, (bands, grid.height, grid.width)).astype(dtype)


def write(
    target: Path,
    grid: Grid,
    array: np.ndarray,
    nodata: float,
    tile: int = 256,
    metadata: dict[str, str] | None = None,
    **more: Any,
) -> None:
    """In blocks of that size, from the lower right to the upper left."""
    names = ["class"] if "classes" in more else [f"band {i}" for i in range(len(array))]
    with Product(target, grid, Values(array.dtype.name, nodata, names, **more), metadata) as product:
        for y in reversed(range(0, grid.height, tile)):
            for x in reversed(range(0, grid.width, tile)):
                product.write(x, y, array[:, y : y + tile, x : x + tile])


def pixels(dataset: Any, dtype: str) -> np.ndarray:
    return np.frombuffer(dataset.ReadRaster(), dtype).reshape(
        dataset.RasterCount, dataset.RasterYSize, dataset.RasterXSize
    )


def is_same(one: str, other: str) -> bool:
    if not one or not other:
        return one == other
    first, second = osr.SpatialReference(one), osr.SpatialReference(other)
    return bool(first.IsSame(second))


def check_layout(path: Path) -> None:
    """GDAL's validator, which follows the order of the directories and the offsets of tiles; and gdal.Info."""
    checker = importlib.import_module("osgeo_utils.samples.validate_cloud_optimized_geotiff")
    _, errors, _ = checker.validate(str(path), full_check=True)
    assert errors == []
    assert "LAYOUT=COG" in gdal.Info(str(path))


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 1), ("uint16", 4), ("float32", 2)])
@pytest.mark.parametrize("name", GRIDS)
def test_pixels_and_their_place_come_back(tmp_path: Path, name: str, dtype: str, bands: int) -> None:
    grid, target = GRIDS[name], tmp_path / "made for it" / "map.tif"
    array = noise(grid, bands, dtype)
    write(target, grid, array, 255, metadata={"checkpoint": "abc", "note": "a = b & <c>"})
    source = gdal.Open(str(target))
    assert np.array_equal(pixels(source, dtype), array)
    read_back = Grid.of(source)
    assert (read_back.width, read_back.height, read_back.gcps) == (grid.width, grid.height, grid.gcps)
    assert read_back.geotransform == grid.geotransform
    assert is_same(read_back.projection, grid.projection) and is_same(read_back.gcp_projection, grid.gcp_projection)
    band = source.GetRasterBand(bands)
    assert band.GetNoDataValue() == 255 and band.GetDescription() == f"band {bands - 1}"
    metadata = source.GetMetadata()
    assert metadata.pop("AREA_OR_POINT", "Area") == "Area" and metadata == {"checkpoint": "abc", "note": "a = b & <c>"}
    assert band.GetColorInterpretation() in (gdal.GCI_GrayIndex, gdal.GCI_Undefined)
    source = band = None
    assert [path.name for path in target.parent.iterdir()] == ["map.tif"]
    check_layout(target)


@pytest.mark.parametrize(("dtype", "nodata", "k"), [("uint8", 255, 10), ("uint16", 65535, 300)])
def test_a_class_map_keeps_names_colours_and_numbers(tmp_path: Path, dtype: str, nodata: int, k: int) -> None:
    grid, target = GRIDS["north up"], tmp_path / "map.tif"
    names = ["Sea & <Lake>", "Wald \u00e4", *(f"class {i}" for i in range(2, k))]
    colours = np.random.default_rng(0).integers(1, 255, (k, 3)).astype(np.uint8)
    array = noise(grid, 1, dtype, k)
    array[:, :100, :50] = nodata
    write(target, grid, array, nodata, classes=names, colours=colours)
    source = gdal.Open(str(target))
    band = source.GetRasterBand(1)
    table = band.GetColorTable()
    assert [table.GetColorEntry(i) for i in range(k)] == [(*c, 255) for c in colours.tolist()]
    assert table.GetColorEntry(nodata)[3] == 0 and band.GetColorInterpretation() == gdal.GCI_PaletteIndex
    assert band.GetCategoryNames() == names and band.GetDescription() == "class" and band.GetNoDataValue() == nodata
    assert np.array_equal(pixels(source, dtype), array)
    small = band.GetOverview(0)
    sampled = np.frombuffer(small.ReadRaster(), dtype).reshape(small.YSize, small.XSize)
    blocks = array[0].reshape(265, 2, 350, 2)  # whichever of the four: nearest invents no class
    assert sampled.shape == (265, 350) and (blocks == sampled[:, None, :, None]).any(axis=(1, 3)).all()
    source = band = small = None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]
    check_layout(target)


def test_probabilities_are_scaled_and_their_overviews_averaged_without_nodata(tmp_path: Path) -> None:
    grid, target = Grid(1024, 1024, NORTH_UP, UTM), tmp_path / "p.tif"
    array = noise(grid, 3, "uint16", 10001)
    array[:, 100:200, 301:400] = 65535
    write(target, grid, array, 65535, scale=0.0001)
    source = gdal.Open(str(target))
    assert [source.GetRasterBand(i).GetScale() for i in (1, 2, 3)] == [0.0001] * 3
    small = source.GetRasterBand(2).GetOverview(0)
    seen = np.frombuffer(small.ReadRaster(), "u2").reshape(512, 512)
    four = np.ma.masked_equal(array[1].reshape(512, 2, 512, 2), 65535).mean(axis=(1, 3))
    assert np.abs(seen - four).max() <= 0.51 and np.array_equal(seen == 65535, np.ma.getmaskarray(four))


@pytest.mark.parametrize("nodata", [255, 0])
def test_what_is_never_written_is_nodata(tmp_path: Path, nodata: int) -> None:
    with Product(tmp_path / "a.tif", Grid(900, 600), Values("uint8", nodata, ["class"])) as product:
        product.write(100, 20, np.full((1, 30, 40), 7, np.uint8))
    expected = np.full((1, 600, 900), nodata)
    expected[:, 20:50, 100:140] = 7
    assert np.array_equal(pixels(gdal.Open(str(tmp_path / "a.tif")), "u1"), expected)


def test_many_bands(tmp_path: Path) -> None:
    array = noise(Grid(140, 130), 300, "float32")
    write(tmp_path / "a.tif", Grid(140, 130), array, float("nan"))
    source = gdal.Open(str(tmp_path / "a.tif"))
    assert source.GetRasterBand(1).GetBlockSize() == [128, 128] and np.isnan(source.GetRasterBand(1).GetNoDataValue())
    assert np.array_equal(pixels(source, "f4"), array)
    check_layout(tmp_path / "a.tif")


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    grid, digests = GRIDS["north up"], set()
    array = noise(grid, 1, "uint8", 10)
    for run, tile in enumerate((256, 256, 100, 512)):
        target = tmp_path / str(run) / "map.tif"
        write(
            target, grid, array, 255, tile, classes=[str(i) for i in range(10)], colours=np.full((10, 3), 9, np.uint8)
        )
        digests.add(hashlib.sha256(target.read_bytes() + target.with_name("map.tif.aux.xml").read_bytes()).digest())
    assert len(digests) == 1


def test_leftovers_of_a_killed_run_are_overwritten(tmp_path: Path) -> None:
    target, grid = tmp_path / "map[1].tif", Grid(40, 30, NORTH_UP, UTM)
    other = tmp_path / ".map[1].tif.b.tif.work.tif"  # of a product whose name begins alike
    other.write_bytes(b"x")
    for name in ("work.tif", "work.tif.aux.xml", "cog.tif", "cog.tif.ovr.tmp"):
        (tmp_path / f".map[1].tif.{name}").write_bytes(b"<garbage")
    write(target, grid, noise(grid, 1, "uint8"), 255)
    assert np.array_equal(pixels(gdal.Open(str(target)), "u1"), noise(grid, 1, "uint8"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, target.name]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target, grid = tmp_path / "map.tif", Grid(40, 30)
    write(target, grid, noise(grid, 1, "uint8", 3), 255, classes=["a", "b", "c"])
    old = target.read_bytes()
    with pytest.raises(ZeroDivisionError), Product(target, grid, MAP) as product:
        product.write(0, 0, np.zeros((1, 30, 40), np.uint8))
        assert target.read_bytes() == old
        raise ZeroDivisionError
    assert target.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]
    write(target, grid, noise(grid, 1, "uint8"), 255)  # no class map: the old names would be wrong
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from rsssl.errors import UserError
from rsssl.data.grid import Grid
from rsssl.geo.product import Product, Values
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # as a disk with that much left
try:
    with Product(Path(sys.argv[1]), Grid(2048, 1024), Values("uint8", 255, ["x"])) as product:
        array = np.random.default_rng(0).integers(0, 200, (1, 1024, 2048)).astype(np.uint8)
        for y in range(0, 1024, 512):
            product.write(0, y, array[:, y : y + 512])
except UserError as error:
    print("UserError", error)
"""


@pytest.mark.parametrize(
    "room", [0, 4000, 500_000, 1_900_000, 2_100_000]
)  # the file would be 2.5 MB, the work file 2 MB
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, room: int) -> None:
    target = tmp_path / "map.tif"
    target.write_bytes(b"old")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(target), str(room)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.startswith("UserError") and str(target) in done.stdout and "type out=" in done.stdout
    assert target.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_a_folder_that_is_not_yours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"map\.tif cannot be written .*type out="):
        Product(tmp_path / "file" / "map.tif", Grid(4, 4), MAP)
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(UserError, match=r"map\.tif cannot be written .*type out="):
        Product(folder / "map.tif", Grid(4, 4), MAP)


def test_blocks_outside_the_grid_and_of_another_type(tmp_path: Path) -> None:
    product = Product(tmp_path / "a.tif", Grid(10, 10), MAP)
    with pytest.raises(ValueError, match="uint8 is wanted"):
        product.write(0, 0, np.zeros((1, 2, 2), np.int64))
    with pytest.raises(UserError, match=r"a\.tif"):
        product.write(9, 9, np.zeros((1, 2, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []
