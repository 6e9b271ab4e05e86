"""Ground areas against closed forms, geodesics and scale factors from PROJ, and sums against loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsssl.data.grid import Grid
from rsssl.geo.area import Areas, write_areas

pyproj = pytest.importorskip("pyproj")
osr = pytest.importorskip("osgeo.osr")
WGS84 = pyproj.Geod(ellps="WGS84")


def wkt(definition: int | str) -> str:
    srs = osr.SpatialReference()
    if isinstance(definition, int):
        srs.ImportFromEPSG(definition)
    else:
        srs.SetFromUserInput(definition)
    return str(srs.ExportToWkt())


def whole(grid: Grid, cell: int = 64) -> float:
    """m2 of a grid of one class."""
    areas = Areas(grid, 1, cell)
    areas.add(0, 0, np.zeros((grid.height, grid.width), np.uint8))
    hectares = areas.hectares()
    assert hectares is not None and areas.pixels[0] == grid.width * grid.height
    return float(hectares[0]) * 1e4


def geodesic(grid: Grid, code: int, steps: int = 400) -> float:
    """m2 inside the outline of the grid by Karney's polygons on the ellipsoid, every edge in short pieces."""
    assert grid.geotransform is not None
    x0, a, b, y0, d, e = grid.geotransform
    t = np.linspace(0, 1, steps, endpoint=False)
    u = np.concatenate([t, np.ones(steps), 1 - t, np.zeros(steps)]) * grid.width
    v = np.concatenate([np.zeros(steps), t, np.ones(steps), 1 - t]) * grid.height
    inverse = pyproj.Transformer.from_crs(code, pyproj.CRS(code).geodetic_crs, always_xy=True)
    longitude, latitude = inverse.transform(x0 + a * u + b * v, y0 + d * u + e * v)
    return abs(float(WGS84.polygon_area_perimeter(longitude, latitude)[0]))


@pytest.mark.parametrize("dy", [-1.0, 1.0])
def test_the_whole_globe(dy: float) -> None:
    a, f = 6378137.0, 1 / 298.257223563
    e = math.sqrt(f * (2 - f))
    closed = 2 * math.pi * a**2 * (1 + (1 - e**2) / e * math.atanh(e))  # of an oblate spheroid
    assert closed == pytest.approx(5.10065621724e14, rel=1e-11)
    assert whole(Grid(360, 180, (-180.0, 1.0, 0.0, -90.0 * dy, 0.0, dy), wkt(4326))) == pytest.approx(closed, rel=1e-12)
    sphere = wkt("+proj=longlat +R=1000 +no_defs")
    assert whole(Grid(36, 18, (0.0, 10.0, 0.0, -90.0 * dy, 0.0, 10 * dy), sphere)) == pytest.approx(
        4e6 * math.pi, rel=1e-12
    )


@pytest.mark.parametrize("latitude", [-90, -60, -1, 0, 30, 48, 75, 89])
def test_a_cell_of_a_degree(latitude: int) -> None:
    along = np.linspace(0, 1, 2001)
    south, north = (np.full(2001, latitude + k) for k in (0, 1))
    ring = np.concatenate([np.stack([10 + along, south]), np.stack([11 - along, north])], 1)
    expected = abs(WGS84.polygon_area_perimeter(*ring)[0])
    grid = Grid(100, 100, (10.0, 0.01, 0.0, latitude + 1.0, 0.0, -0.01), wkt(4326))
    assert whole(grid) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("easting", "northing"), [(500000, 10000), (300000, 5400000), (780000, 3000000), (500000, 9300000)]
)
@pytest.mark.parametrize("turn", [0, 30, 180])
def test_utm_is_the_plane_over_its_scale(easting: int, northing: int, turn: int) -> None:
    cos, sin = 10 * math.cos(math.radians(turn)), 10 * math.sin(math.radians(turn))
    grid = Grid(200, 130, (easting, cos, sin, northing, sin, -cos), wkt(32632))
    utm = pyproj.Proj("EPSG:32632")
    centre = (easting + 100 * cos + 65 * sin, northing + 100 * sin - 65 * cos)
    scale = utm.get_factors(*utm(*centre, inverse=True)).areal_scale
    assert whole(grid) == pytest.approx(200 * 130 * 100 / scale, rel=1e-5)


@pytest.mark.parametrize(
    ("code", "transform"),
    [
        (32632, (600000.0, 20.0, 0.0, 5400000.0, 0.0, -20.0)),
        (32632, (600000.0, 20.0, 0.0, 5400000.0, 0.0, 20.0)),  # south up
        (32632, (600000.0, 17.0, 9.0, 5400000.0, 9.0, -17.0)),  # turned
        (32760, (150000.0, 30.0, 0.0, 8000000.0, 0.0, -30.0)),
        (32701, (160000.0, 200.0, 0.0, 8000000.0, 0.0, -200.0)),  # across the 180th meridian
        (3857, (1e6, 38.0, 0.0, 8.4e6, 0.0, -38.0)),
        (3857, (1e6, 38.0, 0.0, 1.5e7, 0.0, -38.0)),  # 79 degrees north
        (3413, (-200000.0, 500.0, 0.0, 100000.0, 0.0, -500.0)),  # the pole lies inside
        (3031, (1.5e6, 500.0, 0.0, -1e6, 0.0, -500.0)),
        (3035, (4.3e6, 100.0, 0.0, 3e6, 0.0, -100.0)),
    ],
)
def test_any_projection_is_what_geodesics_say(code: int, transform: tuple[float, ...]) -> None:
    grid = Grid(400, 300, transform, wkt(code))
    assert whole(grid) == pytest.approx(geodesic(grid, code, 2000), rel=2e-6)
    assert whole(grid, 1) == pytest.approx(whole(grid), rel=2e-6)


def test_web_mercator_at_60_north_shows_four_times_the_ground() -> None:
    grid = Grid(100, 100, (0.0, 10.0, 0.0, 8399737.9, 0.0, -10.0), wkt(3857))
    assert 100 * 100 * 100 / whole(grid) == pytest.approx(4, rel=0.01)


def test_grads_and_heights_change_nothing() -> None:
    grads = Grid(50, 50, (3.0, 0.01, 0.0, 53.0, 0.0, -0.01), wkt(4807))
    ellipsoid = "+proj=longlat +a=6378249.2 +b=6356515 +no_defs"
    degrees = Grid(50, 50, (2.7, 0.009, 0.0, 47.7, 0.0, -0.009), wkt(ellipsoid))
    assert whole(grads) == pytest.approx(whole(degrees), rel=1e-8)
    with_heights = Grid(50, 50, (5e5, 10.0, 0.0, 5e6, 0.0, -10.0), wkt("EPSG:32632+5773"))
    assert whole(with_heights) == pytest.approx(whole(Grid(50, 50, with_heights.geotransform, wkt(32632))), rel=1e-12)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(50, 40),
        Grid(50, 40, None, wkt(4326)),
        Grid(50, 40, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)),
        Grid(50, 40, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), 'LOCAL_CS["a building site",UNIT["metre",1]]'),
    ],
)
def test_no_place_on_earth_no_hectares(grid: Grid) -> None:
    areas = Areas(grid, 2)
    areas.add(0, 0, np.ones((40, 50), np.uint8))
    assert areas.hectares() is None and areas.pixels.tolist() == [0, 2000]


def test_beyond_the_limb_of_a_geostationary_view_nothing_is_known() -> None:
    view = wkt("+proj=geos +h=35785831 +lon_0=0 +datum=WGS84 +units=m")
    areas = Areas(Grid(200, 10, (-6e6, 60000.0, 0.0, 300000.0, 0.0, -60000.0), view), 3)
    areas.add(95, 0, np.zeros((10, 10), np.uint8))  # in the middle
    areas.add(0, 0, np.ones((10, 5), np.uint8))  # in space
    hectares = areas.hectares()
    assert (
        hectares is not None
        and hectares[0] == pytest.approx(100 * 6e4**2 / 1e4, rel=0.02)
        and np.isnan(hectares[1])
        and hectares[2] == 0
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 130),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 70),
    st.integers(1, 300),
    st.integers(0, 99),
)
def test_however_the_blocks_are_cut(w: int, h: int, across: int, down: int, cell: int, k: int, seed: int) -> None:
    grid = Grid(w, h, (399000.0, 100.0, 20.0, 5400000.0, 10.0, -100.0), wkt(32632))
    random = np.random.default_rng(seed)
    classes = random.integers(-1, k + 3, (h, w)).astype(random.choice(["int64", "uint16", "int32"]))
    pieces, at_once = Areas(grid, k, cell), Areas(grid, k, cell)
    at_once.add(0, 0, classes)
    blocks = [(x, y) for y in range(0, h, down) for x in range(0, w, across)]
    for i in random.permutation(len(blocks)):
        x, y = blocks[i]
        pieces.add(x, y, classes[y : y + down, x : x + across])
    one, other = pieces.hectares(), at_once.hectares()
    assert one is not None and other is not None and np.allclose(one, other, rtol=1e-11, atol=0)
    counts = [0] * k
    for value in classes.ravel().tolist():
        if 0 <= value < k:
            counts[value] += 1
    assert pieces.pixels.tolist() == at_once.pixels.tolist() == counts
    assert np.allclose(one, np.array(counts), rtol=3e-2)  # a hectare a pixel, nearly: 100 m by 100 m, sheared by 2 %


def test_each_class_gets_its_own_latitudes() -> None:
    grid = Grid(10, 180, (0.0, 1.0, 0.0, 90.0, 0.0, -1.0), wkt(4326))
    areas = Areas(grid, 180)
    areas.add(0, 0, np.broadcast_to(np.arange(180)[:, None], (180, 10)))
    hectares = areas.hectares()
    assert hectares is not None and np.allclose(hectares, hectares[::-1], rtol=1e-9)
    rows = [whole(Grid(10, 1, (0.0, 1.0, 0.0, 90.0 - i, 0.0, -1.0), grid.projection)) / 1e4 for i in range(180)]
    assert np.allclose(hectares, rows, rtol=1e-9) and hectares[0] < hectares[89] / 50


def test_a_huge_grid_costs_only_what_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    corners, sizes = Areas._corners, []

    def counted(*line: Any) -> np.ndarray:
        points = corners(*line)
        sizes.append(points.size)
        return points

    monkeypatch.setattr(Areas, "_corners", counted)
    grid = Grid(100_000, 100_000, (300000.0, 1.0, 0.0, 5400000.0, 0.0, -1.0), wkt(32632))
    areas = Areas(grid, 2)
    areas.add(99_900, 99_990, np.zeros((10, 100), np.uint8))
    hectares = areas.hectares()
    assert hectares is not None and hectares[0] == pytest.approx(0.1, rel=2e-3)
    assert len(sizes) == 2 and max(sizes) < 20


def test_the_table(tmp_path: Path) -> None:
    names, pixels = ["Forest", 'a "quoted", one', "none \udcff"], np.array([300, 100, 0])
    write_areas(tmp_path / "areas.csv", names, pixels, np.array([3.0, 1.00005, np.nan]))
    assert (tmp_path / "areas.csv").read_text(encoding="utf-8") == (
        "class_number,class,pixels,share,hectares\n"
        "0,Forest,300,0.750000,3.0000\n"
        '1,"a ""quoted"", one",100,0.250000,1.0001\n'
        "2,none \ufffd,0,0.000000,\n"
    )
    write_areas(tmp_path / "areas.csv", ["a"], np.array([0]), None)
    assert (tmp_path / "areas.csv").read_text().splitlines()[1] == "0,a,0,0.000000,"
