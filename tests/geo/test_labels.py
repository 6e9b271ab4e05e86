"""From labels drawn on scenes to labelled windows, against counting pixels one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.raster import write_geotiff
from rsssl.data.scene_file import SceneFile
from rsssl.errors import UserError
from rsssl.geo.labels import Labels
from rsssl.geo.laying import Cut

gdal = pytest.importorskip("osgeo.gdal")
from osgeo import ogr, osr  # noqa: E402

H, W, PIXEL = 100, 140, 10.0
ORIGIN = 500_000.0, 5_600_000.0
CUT = Cut(window=16, stride=8, inside=0.5, most=10_000)


def srs(code: int) -> osr.SpatialReference:
    out = osr.SpatialReference()
    out.ImportFromEPSG(code)
    out.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return out


def raster(
    path: Path, values: np.ndarray, x: float = ORIGIN[0], pixel: float = PIXEL, code: int | None = 32632
) -> Path:
    gdal.UseExceptions()
    h, w = values.shape
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), w, h, 1, gdal.GDT_Byte)
    dataset.SetGeoTransform((x, pixel, 0, ORIGIN[1], 0, -pixel))
    dataset.SetProjection(srs(32632).ExportToWkt())
    dataset.GetRasterBand(1).WriteRaster(0, 0, w, h, np.ascontiguousarray(values).tobytes())
    dataset.FlushCache()
    return path


@pytest.fixture
def scene(tmp_path: Path) -> SceneFile:
    return SceneFile(raster(tmp_path / "scene.tif", np.arange(H * W, dtype=np.uint8).reshape(H, W)))


def at(col: float, row: float) -> tuple[float, float]:
    return ORIGIN[0] + col * PIXEL, ORIGIN[1] - row * PIXEL


Shape = Sequence[tuple[float, float]]  # corners in pixels (column, row); one for a point


def vector(path: Path, features: Sequence[tuple[str | None, Shape]], code: int | None = 32632) -> str:
    """A GeoPackage of points and polygons, brought into a CRS; None: as they are, and without one."""
    ogr.UseExceptions()
    source = ogr.GetDriverByName("GPKG").CreateDataSource(str(path))
    layer = source.CreateLayer("labels", srs(code) if code else None, ogr.wkbUnknown)
    layer.CreateField(ogr.FieldDefn("class", ogr.OFTString))
    for name, shape in features:
        corners = [at(*c) for c in shape]
        if len(corners) == 1:
            geometry = ogr.CreateGeometryFromWkt(f"POINT ({corners[0][0]} {corners[0][1]})")
        else:
            ring = ", ".join(f"{x} {y}" for x, y in [*corners, corners[0]])
            geometry = ogr.CreateGeometryFromWkt(f"POLYGON (({ring}))")
        if code:
            geometry.Transform(osr.CoordinateTransformation(srs(32632), srs(code)))
        feature = ogr.Feature(layer.GetLayerDefn())
        feature.SetGeometry(geometry)
        if name is not None:
            feature.SetField("class", name)
        layer.CreateFeature(feature)
    del source
    return str(path)


def square(col: float, row: float, side: float) -> Shape:
    return [(col, row), (col + side, row), (col + side, row + side), (col, row + side)]


def windows(labels: Labels) -> dict[tuple[int, int], str]:
    found, classes = labels.finished()
    return {(label.row, label.col): classes[label.label] for label in found}


@pytest.mark.parametrize("code", [32632, 4326, 3857])
def test_a_window_stands_on_each_point(scene: SceneFile, tmp_path: Path, code: int) -> None:
    points = {"water": (50.2, 40.2), "wood": (3.0, 98.0), "field": (139.5, 0.5)}
    labels = Labels([scene], CUT)
    labels.add(vector(tmp_path / "p.gpkg", [(n, [p]) for n, p in points.items()], code), None, "dataset.labels")
    found = windows(labels)
    assert found == {(32, 42): "water", (84, 0): "wood", (0, 124): "field"}, "moved into the scene at its edges"


def test_windows_of_a_polygon_are_filled_by_it_and_no_other_place_would_do(scene: SceneFile, tmp_path: Path) -> None:
    triangle = [(10.0, 10.0), (90.0, 20.0), (30.0, 90.0)]
    file = vector(tmp_path / "p.gpkg", [("field", triangle), ("water", square(110, 60, 10))])
    labels = Labels([scene], CUT)
    labels.add(file, "class", "dataset.labels")
    found = windows(labels)
    (x1, y1), (x2, y2), (x3, y3) = triangle

    def inside(col: int, row: int) -> bool:
        x, y = col + 0.5, row + 0.5
        turns = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1), (x3 - x2) * (y - y2) - (y3 - y2) * (x - x2)]
        turns.append((x1 - x3) * (y - y3) - (y1 - y3) * (x - x3))
        return min(turns) >= 0 or max(turns) <= 0

    shares = {
        place: np.mean([inside(place[1] + c, place[0] + r) for r in range(16) for c in range(16)])
        for place, name in found.items()
        if name == "field"
    }
    assert len(shares) > 20 and min(shares.values()) >= 0.5 and max(shares.values()) == 1
    (small,) = [place for place, name in found.items() if name == "water"]
    assert small == (57, 107), "a polygon that is smaller than a window has one, around its middle"


def test_a_polygon_too_large_to_be_drawn_whole_is_looked_at_window_by_window(
    scene: SceneFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = vector(
        tmp_path / "p.gpkg", [("field", [(10.0, 10.0), (90.0, 20.0), (30.0, 90.0)]), ("water", [(130.0, 9.0)])]
    )
    found = []
    for whole in (1 << 24, 0):
        monkeypatch.setattr("rsssl.geo.labels.WHOLE", whole)
        labels = Labels([scene], CUT)
        labels.add(file, None, "dataset.labels")
        found.append(windows(labels))
    assert found[0] == found[1] and len(found[0]) > 20


def test_a_class_raster_labels_the_windows_that_a_class_fills(scene: SceneFile, tmp_path: Path) -> None:
    values = np.zeros((50, 70), np.uint8)  # pixels of 20 m
    values[:25, :40], values[25:, :] = 3, 7
    file = raster(tmp_path / "classes.tif", values, pixel=20)
    dataset = gdal.Open(str(file), gdal.GA_Update)
    dataset.GetRasterBand(1).SetNoDataValue(0)
    dataset.GetRasterBand(1).SetCategoryNames(["nothing", " ", " ", "wood"])
    del dataset
    labels = Labels([scene], CUT)
    labels.add(str(file), None, "dataset.labels")
    fine = np.kron(values, np.ones((2, 2), np.uint8))
    for (row, col), name in windows(labels).items():
        part = fine[row : row + 16, col : col + 16]
        assert (part == {"wood": 3, "class 7": 7}[name]).mean() >= 0.5
    assert {label.feature for label, _ in labels.windows} == {-1}


def test_each_scene_has_the_labels_that_lie_on_it(scene: SceneFile, tmp_path: Path) -> None:
    east = SceneFile(raster(tmp_path / "east.tif", np.zeros((H, W), np.uint8), x=ORIGIN[0] + W * PIXEL))
    points = [("a", [(20.0, 20.0)]), ("b", [(160.0, 20.0)]), ("b", [(60.0, 60.0)]), ("a", [(400.0, 20.0)])]
    labels = Labels([scene, east], CUT)
    labels.add(vector(tmp_path / "p.gpkg", points, 4326), None, "dataset.labels")
    found, classes = labels.finished()
    assert classes == ("a", "b")
    assert [(label.scene, label.label) for label in found] == [(0, 0), (0, 1), (1, 1)]
    assert len({label.feature for label in found}) == 3


def test_several_files_are_joined_and_a_test_set_is_kept_apart(scene: SceneFile, tmp_path: Path) -> None:
    labels = Labels([scene], CUT)
    labels.add(vector(tmp_path / "1.gpkg", [("a", [(20.0, 20.0)]), (None, [(50.0, 50.0)])]), None, "dataset.labels")
    labels.add(vector(tmp_path / "2.gpkg", [("b", [(60.0, 60.0)]), ("a", [(20.0, 20.0)])]), None, "dataset.labels")
    labels.add(vector(tmp_path / "3.gpkg", [("b", [(100.0, 60.0)])]), None, "dataset.test")
    found, classes = labels.finished()
    assert [(classes[label.label], label.own_test) for label in found] == [("a", False), ("b", False), ("b", True)]


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([("a", [(20.0, 20.0)]), ("b", [(20.0, 20.0)])], r"two classes .*feature 1 \(a\) and feature 2 \(b\)"),
        ([("a", square(20, 20, 30)), ("b", square(40, 40, 30))], "two classes lie on one place"),
        ([("a", square(20, 20, 30)), ("b", [(30.0, 30.0)])], "two classes lie on one place"),
        ([("a", [(20.0, 20.0)]), ("b", [(20.2, 20.0)])], "both given to one window"),
        ([("a", [(20.0, 20.0)]), ("a", [(60.0, 60.0)])], "all labels are of the class a"),
    ],
)
def test_what_contradicts_itself_is_named(
    scene: SceneFile, tmp_path: Path, features: Sequence[tuple[str, Shape]], says: str
) -> None:
    labels = Labels([scene], CUT)
    labels.add(vector(tmp_path / "p.gpkg", features), None, "dataset.labels")
    with pytest.raises(UserError, match=says):
        labels.finished()


def test_polygons_that_share_an_edge_do_not_contradict(scene: SceneFile, tmp_path: Path) -> None:
    labels = Labels([scene], CUT)
    features = [("a", square(20, 20, 30)), ("b", square(50, 20, 30))]
    labels.add(vector(tmp_path / "p.gpkg", features), None, "dataset.labels")
    assert set(windows(labels).values()) == {"a", "b"}


def test_labels_that_lie_nowhere_say_why(scene: SceneFile, tmp_path: Path) -> None:
    labels = Labels([scene], CUT)
    there = srs(32632)
    move = osr.CoordinateTransformation(there, srs(4326))
    (lon, lat, _), (lon2, lat2, _) = (move.TransformPoint(*at(*p)) for p in ((20, 20), (60, 60)))
    swapped = tmp_path / "swapped.csv"
    swapped.write_text(f"lon,lat,class\n{lat},{lon},a\n{lat2},{lon2},b\n")
    with pytest.raises(UserError, match=r"longitude and latitude swapped they lie on scene\.tif"):
        labels.add(str(swapped), None, "dataset.labels")
    with pytest.raises(UserError, match=r"no label on the scene scene\.tif.*EPSG:32632.*type dataset\.labels=FILE"):
        labels.add(vector(tmp_path / "far.gpkg", [("a", [(9e3, 9e3)])]), None, "dataset.labels")
    bare = tmp_path / "bare.shp"
    source = ogr.GetDriverByName("ESRI Shapefile").CreateDataSource(str(bare))
    layer = source.CreateLayer("bare", None, ogr.wkbPoint)
    layer.CreateField(ogr.FieldDefn("class", ogr.OFTString))
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POINT ({lon} {lat})"))
    feature.SetField("class", "a")
    layer.CreateFeature(feature)
    del feature, layer, source
    with pytest.raises(UserError, match="names no CRS"):
        labels.add(str(bare), None, "dataset.labels")
    good = tmp_path / "good.csv"
    good.write_text(f"lon;lat;class\n{lon};{lat};a\n{lon2};{lat2};b\n")
    labels.add(str(good), None, "dataset.labels")
    assert len(labels.finished()[0]) == 2


def test_classes_that_are_given_are_looked_for_in_any_capitalisation(scene: SceneFile, tmp_path: Path) -> None:
    file = vector(tmp_path / "p.gpkg", [("WATER", [(20.0, 20.0)]), ("wood", [(60.0, 60.0)])])
    labels = Labels([scene], CUT, ["wood", "water", "rock"])
    labels.add(file, None, "dataset.labels")
    assert labels.finished()[1] == ("wood", "water", "rock") and set(windows(labels).values()) == {"water", "wood"}
    with pytest.raises(UserError, match=r"'WATER' is not in dataset\.classes=.*write 'watre' there"):
        Labels([scene], CUT, ["wood", "watre"]).add(file, None, "dataset.labels")


def test_a_scene_in_place_of_a_class_raster_is_told_by_its_key(scene: SceneFile, tmp_path: Path) -> None:
    bands = np.zeros((3, 50, 70), np.uint8)
    write_geotiff(tmp_path / "bands.tif", bands)
    with pytest.raises(UserError, match=r"^dataset\.labels=.*bands\.tif has 3 bands, and a class raster has one"):
        Labels([scene], CUT).add(str(tmp_path / "bands.tif"), None, "dataset.labels")


def test_the_extents_of_labels_and_scene_are_told(scene: SceneFile, tmp_path: Path) -> None:
    """By GDAL's own corners of both."""
    file = vector(tmp_path / "far.gpkg", [("a", [(9e3, 9e3)]), ("b", [(9.1e3, 9.2e3)])], 4326)
    with pytest.raises(UserError) as refused:
        Labels([scene], CUT).add(file, None, "dataset.labels")
    opened = ogr.Open(file)
    left, right, low, high = opened.GetLayer(0).GetExtent()
    told = str(refused.value)
    assert f"x {left:,.4f} to {right:,.4f}, y {low:,.4f} to {high:,.4f} in WGS 84 (EPSG:4326)" in told
    corners = gdal.Info(scene.path, format="json")["cornerCoordinates"]
    (x0, y1), (x1, y0) = corners["upperLeft"], corners["lowerRight"]
    assert f"x {x0:,.0f} to {x1:,.0f}, y {y0:,.0f} to {y1:,.0f} in" in told and "EPSG:32632" in told


def test_one_feature_that_lies_outside_is_one(
    scene: SceneFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features: list[tuple[str | None, Shape]] = [("a", [(20.0, 20.0)]), ("b", [(60.0, 60.0)]), ("a", [(9e3, 9e3)])]
    Labels([scene], CUT).add(vector(tmp_path / "p.gpkg", features), None, "dataset.labels")
    assert "1 feature lies outside the scenes: left out" in caplog.text
