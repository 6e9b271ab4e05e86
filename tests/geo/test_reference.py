"""Maps and references made here, every count against a loop over points, pixel centres and polygons' edges."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsssl.errors import UserError
from rsssl.geo.class_map import ClassMap
from rsssl.geo.reference import compare
from rsssl.geo.samples import Samples

gdal = pytest.importorskip("osgeo.gdal")
from osgeo import ogr, osr  # noqa: E402

NAMES = ["Annual crop", "forest", "water", "sealed_soil"]
NORTH_UP = (500_000.0, 10.0, 0.0, 5_600_000.0, 0.0, -10.0)
SOUTH_UP = (500_000.0, 10.0, 0.0, 5_600_000.0, 0.0, 10.0)
ROTATED = (500_000.0, 9.0, 4.0, 5_600_000.0, 4.0, -9.0)
Ring = Sequence[tuple[float, float]]


def open_map(path: Path) -> ClassMap:
    return ClassMap(path, block=500)  # so that these maps too are read in many blocks


def srs_of(code: int | None) -> osr.SpatialReference | None:
    if code is None:
        return None
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(code)
    srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return srs


def raster(
    path: Path,
    values: np.ndarray,
    geotransform: Sequence[float] = NORTH_UP,
    code: int | None = 32632,
    names: list[str] | None = NAMES,
    nodata: float | None = 255,
) -> Path:
    h, w = values.shape
    kind = {"u": gdal.GDT_Byte, "i": gdal.GDT_Int16, "f": gdal.GDT_Float32}[values.dtype.kind]
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), w, h, 1, kind)
    dataset.SetGeoTransform(list(geotransform))
    if code is not None:
        dataset.SetProjection(srs_of(code).ExportToWkt())
    band = dataset.GetRasterBand(1)
    if nodata is not None:
        band.SetNoDataValue(nodata)
    band.WriteRaster(0, 0, w, h, np.ascontiguousarray(values).tobytes())
    if names:
        band.SetCategoryNames(names)
    dataset.FlushCache()
    return path


def vector(
    path: Path,
    features: Sequence[tuple[str | None, object]],
    code: int | None = 32632,
    field: str = "class",
    layer: str = "layer",
    driver: str = "GPKG",
) -> Path:
    """features: (WKT or None, class) each."""
    if path.exists():
        dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE | gdal.OF_VECTOR)
    else:
        dataset = ogr.GetDriverByName(driver).CreateDataSource(str(path))
    table = dataset.CreateLayer(layer, srs_of(code))
    table.CreateField(ogr.FieldDefn("remark", ogr.OFTString))
    number = all(isinstance(value, int) for _, value in features)
    table.CreateField(ogr.FieldDefn(field, ogr.OFTInteger if number else ogr.OFTString))
    for wkt, value in features:
        feature = ogr.Feature(table.GetLayerDefn())
        if wkt is not None:
            feature.SetGeometry(ogr.CreateGeometryFromWkt(wkt))
        if value is not None:
            feature.SetField(field, value)
        table.CreateFeature(feature)
    del feature, table, dataset  # which is what closes it
    return path


def polygon(*rings: Ring) -> str:
    def closed(ring: Ring) -> str:
        return "(" + ", ".join(f"{float(x)!r} {float(y)!r}" for x, y in [*ring, ring[0]]) + ")"

    return f"({', '.join(map(closed, rings))})"


def at(geotransform: Sequence[float], col: Any, row: Any) -> tuple[Any, Any]:
    x, dx, rx, y, ry, dy = geotransform
    return x + col * dx + row * rx, y + col * ry + row * dy


def inside(rings: Sequence[Ring], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd: how many edges a ray to the right of each point crosses."""
    crossings = np.zeros(x.shape, int)
    for ring in rings:
        for (xa, ya), (xb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
            crossings += ((ya > y) != (yb > y)) & (x < xa + (y - ya) * (xb - xa) / (yb - ya))
    return crossings % 2 == 1


@pytest.fixture(params=[NORTH_UP, SOUTH_UP, ROTATED], ids=["north up", "south up", "rotated"])
def geotransform(request: pytest.FixtureRequest) -> tuple[float, ...]:
    return request.param


@pytest.fixture
def classes() -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 4, (40, 60)).astype(np.uint8)
    values[:5, :7] = 255
    return values


def test_points_of_another_crs(tmp_path: Path, classes: np.ndarray, geotransform: tuple[float, ...]) -> None:
    random = np.random.default_rng(0)
    scene = open_map(raster(tmp_path / "map.tif", classes, geotransform))
    to_degrees = osr.CoordinateTransformation(srs_of(32632), srs_of(4326))
    features, expected, outside, nodata = [], np.zeros((4, 4), int), 0, 0
    for col, row in random.uniform(-3, [63, 43], (400, 2)):
        truth = int(random.integers(4))
        lon, lat, _ = to_degrees.TransformPoint(*at(geotransform, col, row))
        features.append((f"POINT ({lon!r} {lat!r})", NAMES[truth]))
        if not (0 <= col < 60 and 0 <= row < 40):
            outside += 1
        elif classes[int(row), int(col)] == 255:
            nodata += 1
        else:
            expected[classes[int(row), int(col)], truth] += 1
    got = compare(scene, str(vector(tmp_path / "points.gpkg", features, 4326)))
    np.testing.assert_array_equal(got.counts, expected)
    assert (got.outside, got.nodata, got.unlabelled, got.kind, got.field) == (outside, nodata, 0, "points", "class")
    assert outside > 20 and nodata > 3 and got.notes == []


@pytest.mark.parametrize("driver, name", [("GPKG", "p.gpkg"), ("GeoJSON", "p.geojson"), ("ESRI Shapefile", "p.shp")])
def test_every_file_format(tmp_path: Path, classes: np.ndarray, driver: str, name: str) -> None:
    scene = open_map(raster(tmp_path / "map.tif", classes))
    places = [(10.5, 10.5), (20.5, 30.5), (59.5, 39.5)]
    features = [("POINT ({} {})".format(*at(NORTH_UP, *p)), "forest") for p in places]
    got = compare(scene, str(vector(tmp_path / name, features, 32632, driver=driver)))
    expected = np.zeros((4, 4), int)
    for col, row in places:
        expected[classes[int(row), int(col)], 1] += 1
    np.testing.assert_array_equal(got.counts, expected)


def test_polygons_with_holes_and_several_parts(
    tmp_path: Path, classes: np.ndarray, geotransform: tuple[float, ...]
) -> None:
    """Each is one sample: the class of most pixels whose centre is inside; counted here pixel by pixel."""
    random = np.random.default_rng(2)
    scene = open_map(raster(tmp_path / "map.tif", classes, geotransform))
    rows, cols = np.mgrid[:40, :60] + 0.5
    x, y = at(geotransform, cols, rows)
    features, expected, outside, nodata = [], np.zeros((4, 4), int), 0, 0
    for i in range(80):
        parts, everything = [], []
        for part in range(1 + i % 2):
            centre, radius = random.uniform(-4, [64, 44]) + 12 * part, random.uniform(1.2, 6)
            angles = np.arange(7) / 7 * 2 * np.pi + random.uniform(0, 1)
            rings = [
                [at(geotransform, *(centre + radius * f * np.array([np.cos(a), np.sin(a)]))) for a in angles]
                for f in ([1, 0.5] if i % 3 == 0 else [1])
            ]
            parts.append(rings)
            everything += rings
        truth = int(random.integers(4))
        text = ", ".join(polygon(*rings) for rings in parts)
        features.append((f"MULTIPOLYGON ({text})" if len(parts) > 1 else f"POLYGON {text}", truth))
        hits = classes[inside(everything, x, y)]
        votes = np.bincount(hits[hits < 255], minlength=4)
        if not len(hits):
            outside += 1
        elif not votes.any():
            nodata += 1
        else:
            expected[votes.argmax(), truth] += 1
    got = compare(scene, str(vector(tmp_path / "polygons.gpkg", features)))
    np.testing.assert_array_equal(got.counts, expected)
    assert (got.outside, got.nodata, got.kind) == (outside, nodata, "polygons") and outside and nodata


def test_a_polygon_smaller_than_a_pixel_and_a_tie(tmp_path: Path) -> None:
    values = np.array([[3, 2, 1], [255, 1, 2]], np.uint8)
    scene = open_map(raster(tmp_path / "map.tif", values))

    def box(left: float, top: float, right: float, bottom: float) -> str:
        return "POLYGON " + polygon(
            [at(NORTH_UP, *c) for c in ((left, top), (right, top), (right, bottom), (left, bottom))]
        )

    features = [
        (box(0.1, 0.1, 0.3, 0.3), 0),
        (box(1, 0, 3, 1), 1),
        (box(0.1, 1.1, 0.3, 1.3), 0),
        (box(-2, 0, -1.5, 1), 0),
        (box(0, 1, 1, 2), 2),
    ]
    got = compare(scene, str(vector(tmp_path / "polygons.gpkg", features)))
    assert got.counts[3, 0] == 1, "the tiny polygon takes the pixel under it"
    assert got.counts[1, 1] == 1, "one pixel of 2 and one of 1: the lower number"
    assert got.counts.sum() == 2 and got.nodata == 2 and got.outside == 1


def nearest_neighbour(
    scene: np.ndarray, gt: Sequence[float], code: int, other: np.ndarray, other_gt: Sequence[float], other_code: int
) -> Samples:
    """By a loop: the reference's pixel that holds the centre of each pixel of the map. For north-up references."""
    change = osr.CoordinateTransformation(srs_of(code), srs_of(other_code))
    samples = Samples(np.zeros((4, 4), np.int64), "pixels")
    for row, col in np.ndindex(scene.shape):
        x, y, _ = change.TransformPoint(*at(gt, col + 0.5, row + 0.5))
        c, r = int(np.floor((x - other_gt[0]) / other_gt[1])), int(np.floor((y - other_gt[3]) / other_gt[5]))
        truth = int(other[r, c]) if 0 <= r < other.shape[0] and 0 <= c < other.shape[1] else 255
        if scene[row, col] == 255:
            samples.nodata += truth != 255
        elif truth == 255:
            samples.outside += 1
        else:
            samples.counts[scene[row, col], truth] += 1
    return samples


@pytest.mark.parametrize(
    "other_code, other_gt",
    [
        (32632, (499_903.31, 13.7, 0.0, 5_600_055.27, 0.0, -11.3)),
        (4326, (8.9983, 0.00021, 0.0, 50.5531, 0.0, -0.00013)),
    ],
    ids=["another grid", "another CRS"],
)
def test_a_raster_pixel_by_pixel(
    tmp_path: Path, classes: np.ndarray, geotransform: tuple[float, ...], other_code: int, other_gt: tuple[float, ...]
) -> None:
    other = np.random.default_rng(3).integers(0, 4, (45, 50)).astype(np.uint8)
    other[20:24, 9:19] = 255
    expected = nearest_neighbour(classes, geotransform, 32632, other, other_gt, other_code)
    scene = open_map(raster(tmp_path / "map.tif", classes, geotransform))
    got = compare(scene, str(raster(tmp_path / "truth.tif", other, other_gt, other_code, names=None)))
    assert expected.counts.sum() > 300 and expected.outside > 30
    np.testing.assert_array_equal(got.counts, expected.counts)
    assert (got.outside, got.nodata, got.kind) == (expected.outside, expected.nodata, "pixels")
    assert any("independent" in note for note in got.notes)


def test_a_raster_by_its_category_names(tmp_path: Path, classes: np.ndarray) -> None:
    """Numbered another way, named the same; in floating point, as some programs write."""
    order = [2, 0, 3, 1]
    other = np.full(classes.shape, -1, np.int16)
    for i, k in enumerate(order):
        other[classes == k] = i
    scene = open_map(raster(tmp_path / "map.tif", classes))
    path = raster(tmp_path / "truth.tif", other, names=[NAMES[k].upper() for k in order], nodata=-1)
    np.testing.assert_array_equal(compare(scene, str(path)).counts, np.diag(np.bincount(classes[classes < 4])))
    path = raster(tmp_path / "float.tif", np.where(classes == 255, np.nan, classes).astype(np.float32), names=None)
    np.testing.assert_array_equal(compare(scene, str(path)).counts, np.diag(np.bincount(classes[classes < 4])))


def test_classes_by_name_and_number(tmp_path: Path, classes: np.ndarray) -> None:
    scene = open_map(raster(tmp_path / "map.tif", classes))
    assert scene.names == NAMES and scene.values.tolist() == [0, 1, 2, 3]
    spelt = {
        "Annual crop": 0,
        "annual_crop": 0,
        "ANNUAL-CROP": 0,
        " forest ": 1,
        "sealed soil": 3,
        2: 2,
        "2": 2,
        "2.0": 2,
    }
    assert {value: scene.class_of(value, "here") for value in spelt} == spelt
    with pytest.raises(UserError, match=r"here: the class 'forrest' is not in .*map.tif.*write 'forest'"):
        scene.class_of("forrest", "here")
    with pytest.raises(UserError, match="the class '4' is not in"):
        scene.class_of(4, "here")


def test_a_map_without_names_has_the_classes_that_occur(tmp_path: Path) -> None:
    values = np.array([[111, 523, 111], [-7, 0, 523]], np.int16)
    scene = open_map(raster(tmp_path / "map.tif", values, names=None, nodata=0))
    assert scene.names == ["-7", "111", "523"] and scene.class_of("523", "here") == 2
    np.testing.assert_array_equal(scene.read(0, 0, 3, 2), [[1, 2, 1], [0, -1, 2]])
    area, unit = scene.areas()
    assert unit == "ha"
    np.testing.assert_allclose(area, np.array([1, 2, 2]) * 0.01, rtol=0.01)  # 10 m pixels


def test_names_that_leave_numbers_out(tmp_path: Path) -> None:
    names = [""] * 31
    names[10], names[30] = "trees", "grass"
    scene = open_map(raster(tmp_path / "map.tif", np.array([[10, 20]], np.uint8), names=names))
    assert scene.names == ["trees", "20", "grass"] and scene.values.tolist() == [10, 20, 30]


def test_without_a_crs_coordinates_are_compared_and_it_is_said(tmp_path: Path, classes: np.ndarray) -> None:
    features = [("POINT ({} {})".format(*at(NORTH_UP, 10.5, 20.5)), "water")]
    points = str(vector(tmp_path / "points.gpkg", features, 32632))
    nowhere = open_map(raster(tmp_path / "nowhere.tif", classes, code=None))
    got = compare(nowhere, points)
    assert got.counts[classes[20, 10], 2] == 1 and "nowhere.tif has no CRS" in got.notes[0]
    assert nowhere.areas()[1] == "pixels"
    np.testing.assert_array_equal(nowhere.areas()[0], np.bincount(classes[classes < 4]))
    scene = open_map(raster(tmp_path / "map.tif", classes))
    for one, other in ((nowhere, "map.tif"), (scene, "nowhere.tif")):
        got = compare(one, str(tmp_path / other))
        np.testing.assert_array_equal(got.counts, np.diag(np.bincount(classes[classes < 4])))
        assert any("nowhere.tif has no CRS" in note for note in got.notes)


def test_what_has_no_class_is_counted(tmp_path: Path, classes: np.ndarray) -> None:
    place = "POINT ({} {})".format(*at(NORTH_UP, 10.5, 20.5))
    features = [(place, "water"), (place, None), (place, " "), (None, "water"), ("POINT EMPTY", "water")]
    got = compare(open_map(raster(tmp_path / "map.tif", classes)), str(vector(tmp_path / "points.gpkg", features)))
    assert got.counts.sum() == 1 and (got.unlabelled, got.unplaced) == (2, 2)


def test_a_csv_of_points(tmp_path: Path, classes: np.ndarray) -> None:
    """By the columns' names: degrees, or the map's CRS; the sheet of a spreadsheet too."""
    scene = open_map(raster(tmp_path / "map.tif", classes))
    places = [at(NORTH_UP, col + 0.5, row + 0.5) for col, row in ((10, 20), (30, 7), (59, 39))]
    expected = np.zeros((4, 4), int)
    for col, row in ((10, 20), (30, 7), (59, 39)):
        expected[classes[row, col], 2] += 1
    to_degrees = osr.CoordinateTransformation(srs_of(32632), srs_of(4326))
    degrees = [to_degrees.TransformPoint(*place)[:2] for place in places]
    for heads, numbers, meaning in [
        ("x,y,class", places, "map's CRS"),
        ("Northing;Easting;class", [p[::-1] for p in places], "map's CRS"),
        ("lon,lat,class", degrees, "EPSG:4326"),
        ("\ufeffLatitude,Longitude,class", [d[::-1] for d in degrees], "EPSG:4326"),
        ("x,y,lon,lat,class", [(1, 1, *d) for d in degrees], "EPSG:4326"),
    ]:
        joint = ";" if ";" in heads else ","
        lines = [heads, *(joint.join([*map(repr, map(float, n)), "water"]) for n in numbers)]
        lines += [
            joint.join([*map(repr, map(float, numbers[0])), ""]),
            joint.join(["" for _ in numbers[0]] + ["water"]),
        ]
        path = tmp_path / "points.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        got = compare(scene, str(path))
        np.testing.assert_array_equal(got.counts, expected, heads)
        assert (got.kind, got.unlabelled, got.unplaced, len(got.notes)) == ("points", 1, 1, 1)
        assert meaning in got.notes[0]
    rows = "".join(f"{x!r},{y!r},2\n" for x, y in places)  # numbers only, which GDAL would take for a raster
    (tmp_path / "numbers.csv").write_text(f"x,y,class\n{rows}")
    np.testing.assert_array_equal(compare(scene, str(tmp_path / "numbers.csv")).counts, expected)
    (tmp_path / "none.csv").write_text("place,class\n1,water\n")
    with pytest.raises(UserError, match=r"columns place, class: call two of them lon and lat .* or x and y"):
        compare(scene, str(tmp_path / "none.csv"))
    (tmp_path / "wrong.csv").write_text("x,y,class\n9.0,50.5,water\n")
    with pytest.raises(
        UserError, match=r"1 points lie outside.*columns x and y .* the map's CRS; call degrees lon and lat"
    ):
        compare(scene, str(tmp_path / "wrong.csv"))
    (tmp_path / "wkt.csv").write_text('WKT,class\n"POINT ({} {})",water\n'.format(*places[0]))
    assert compare(scene, str(tmp_path / "wkt.csv")).counts.sum() == 1


def test_fields_and_layers(tmp_path: Path, classes: np.ndarray) -> None:
    scene = open_map(raster(tmp_path / "map.tif", classes))
    place = "POINT ({} {})".format(*at(NORTH_UP, 10.5, 20.5))
    path = str(vector(tmp_path / "points.gpkg", [(place, 2)], field="Label"))
    assert compare(scene, path).field == compare(scene, path, "label").field == "Label"
    with pytest.raises(UserError, match=r"no field 'lable'; its fields are remark, Label: .*field=Label"):
        compare(scene, path, "lable")
    other = str(vector(tmp_path / "other.gpkg", [(place, 2)], field="kind"))
    with pytest.raises(UserError, match=r"no field called class.*its fields are remark, kind: .*field="):
        compare(scene, other)
    assert compare(scene, other, "kind").counts.sum() == 1
    vector(tmp_path / "points.gpkg", [(place, 1), (place, 1)], layer="second")
    with pytest.raises(UserError, match=r"2 layers \(layer, second\).*points.gpkg\|layername=layer"):
        compare(scene, path)
    assert compare(scene, f"{path}|layername=second", "class").counts[:, 1].sum() == 2
    with pytest.raises(UserError, match=r"no layer 'secund'.*layername=second"):
        compare(scene, f"{path}|layername=secund")
    (tmp_path / "it's").mkdir()
    os.rename(path, tmp_path / "it's" / "points.gpkg")
    with pytest.raises(UserError) as caught:
        compare(scene, str(tmp_path / "it's" / "points.gpkg"))
    asked = shlex.split(str(caught.value).split("type for example ")[1])
    assert asked == [f'reference="{tmp_path}/it\'s/points.gpkg|layername=layer"']


def test_refuses_what_cannot_be_compared(tmp_path: Path, classes: np.ndarray) -> None:
    scene = open_map(raster(tmp_path / "map.tif", classes))
    place = at(NORTH_UP, 10.5, 20.5)
    with pytest.raises(UserError, match=r"reference=.*none.gpkg does not exist"):
        compare(scene, str(tmp_path / "none.gpkg"))
    with pytest.raises(UserError, match=r"class_map=.*none.tif does not exist"):
        open_map(tmp_path / "none.tif")
    (tmp_path / "text.gpkg").write_text("no database")
    with pytest.raises(UserError, match=r"reference=.*text.gpkg cannot be opened"):
        compare(scene, str(tmp_path / "text.gpkg"))
    with pytest.raises(UserError, match=r"'Forrest'.*write 'forest'"):
        compare(scene, str(vector(tmp_path / "a.gpkg", [(f"POINT ({place[0]} {place[1]})", "Forrest")])))
    with pytest.raises(UserError, match=r"nothing to compare with .*map.tif: 1 points lie outside"):
        compare(scene, str(vector(tmp_path / "b.gpkg", [("POINT (0 0)", "forest")])))
    with pytest.raises(UserError, match="is a linestring"):
        compare(scene, str(vector(tmp_path / "c.gpkg", [("LINESTRING (0 0, 1 1)", "forest")])))
    far = (0.0, 10.0, 0.0, 0.0, 0.0, -10.0)
    with pytest.raises(UserError, match="nothing to compare"):
        compare(scene, str(raster(tmp_path / "far.tif", classes, far)))
    with pytest.raises(UserError, match="has the value 9, which no class of"):
        compare(scene, str(raster(tmp_path / "nine.tif", np.full_like(classes, 9), names=None)))
    with pytest.raises(UserError, match="holds fractions"):
        open_map(raster(tmp_path / "half.tif", np.full((4, 4), 0.5, np.float32)))
    with pytest.raises(UserError, match="more than 1000 different values"):
        open_map(raster(tmp_path / "image.tif", np.arange(2000, dtype=np.int16).reshape(40, 50), names=None))
    with pytest.raises(UserError, match="no valid pixel"):
        open_map(raster(tmp_path / "empty.tif", np.full((4, 4), 255, np.uint8), names=None))


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "1e400", "nan"])
def test_a_class_of_any_digits_is_not_in_the_map(tmp_path: Path, value: str) -> None:
    scene = open_map(raster(tmp_path / "map.tif", np.zeros((4, 4), np.uint8)))
    (tmp_path / "points.csv").write_text(f"x,y,class\n500005,5599995,{value}\n")
    with pytest.raises(UserError, match=f"the class '{value[:50]}.* is not in") as error:
        compare(scene, str(tmp_path / "points.csv"))
    assert len(str(error.value)) < 500 + len(str(tmp_path)) * 2


def test_a_field_of_lists_holds_no_class(tmp_path: Path) -> None:
    scene = open_map(raster(tmp_path / "map.tif", np.zeros((4, 4), np.uint8)))
    place = '{"type": "Point", "coordinates": [9.0, 50.5]}'
    feature = f'{{"type": "Feature", "properties": {{"class": ["a", "b"]}}, "geometry": {place}}}'
    (tmp_path / "points.geojson").write_text(f'{{"type": "FeatureCollection", "features": [{feature}]}}')
    with pytest.raises(UserError, match=r"field class holds several values.*type field="):
        compare(scene, str(tmp_path / "points.geojson"))


@pytest.mark.parametrize("broken", [(np.nan,) * 6, (5e5, np.inf, 0, 5e6, 0, -10), (5e5, 10, 10, 5e6, 10, 10)])
def test_a_geotransform_that_places_nothing_is_told(tmp_path: Path, broken: tuple[float, ...]) -> None:
    good, values = raster(tmp_path / "good.tif", np.zeros((4, 4), np.uint8)), np.zeros((4, 4), np.uint8)
    bad = raster(tmp_path / "bad.tif", values, broken)
    with pytest.raises(UserError, match=r"bad.tif does not say where its pixels lie: type gdal_edit"):
        open_map(bad)
    with pytest.raises(UserError, match=r"bad.tif (cannot be read|has nothing to compare with)"):
        compare(open_map(good), str(bad))


def test_a_reference_raster_of_fractions_is_named(tmp_path: Path) -> None:
    scene = open_map(raster(tmp_path / "map.tif", np.zeros((4, 4), np.uint8)))
    with pytest.raises(UserError, match=r"half\.tif holds fractions"):
        compare(scene, str(raster(tmp_path / "half.tif", np.full((4, 4), 0.5, np.float32))))
