"""Where windows of scenes, and tiles that are files of their own, lie on the ground."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsssl.data.decoders import BadImage, safe_suffix
from rsssl.data.grid import Grid
from rsssl.data.ground import Ground
from rsssl.data.raster import import_gdal
from rsssl.data.scene_file import SceneFile
from rsssl.data.scene_windows import Label
from rsssl.engine.progress import followed
from rsssl.errors import UserError


def ground_of(scenes: Sequence[SceneFile], labels: Sequence[Label], window: int) -> Ground:
    """Where windows of so many pixels lie."""
    places = np.array([label[:3] for label in labels], np.int64).reshape(-1, 3)
    lonlat, side = np.full((len(places), 2), np.nan), np.ones(len(places))
    for number, scene in enumerate(scenes):
        mine = places[:, 0] == number
        rows, cols = (places[mine, i] + window / 2 for i in (1, 2))
        lonlat[mine] = degrees(scene.grid, cols, rows)
        side[mine] = (scene.metres() or 1) * window
    feature, own = np.array([[label.feature, label.own_test] for label in labels], np.int64).reshape(-1, 2).T
    return Ground(lonlat, side, places, feature, own.astype(bool))


def tile_ground(root: str, paths: Sequence[str]) -> Ground:
    """Where tiles that are files of their own lie; NaN where a file does not say."""
    n = len(paths)
    lonlat, side = np.full((n, 2), np.nan), np.ones(n)
    for i, path in enumerate(followed(paths, "places of tiles", "tiles")):
        grid, metres = located(os.path.join(root, path))
        lonlat[i] = degrees(grid, np.array([grid.width / 2]), np.array([grid.height / 2]))[0]
        side[i] = metres or 1
    return Ground(lonlat, side, np.full((n, 3), -1), np.full(n, -1), np.zeros(n, bool))


def located(path: str) -> tuple[Grid, float | None]:
    """A file's grid, and the metres of its side; UserError for what is no file of its own, or no raster."""
    try:
        safe_suffix(path)
    except (BadImage, OSError) as error:
        raise UserError(f"{error}") from error
    scene = SceneFile(path, "dataset.root")
    metres = scene.metres()
    return scene.grid, metres and metres * math.sqrt(scene.grid.width * scene.grid.height)


def degrees(grid: Grid, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Longitude and latitude (n, 2) in WGS 84 of fractional pixel coordinates (n,); NaN without a CRS, and where it has
    no such place."""
    if grid.geotransform is None or not grid.projection or not len(cols):
        return np.full((len(cols), 2), np.nan)
    x0, dx, rx, y0, ry, dy = grid.geotransform
    points = np.stack([x0 + cols * dx + rows * rx, y0 + cols * ry + rows * dy], 1)
    out = np.array(to_degrees(grid.projection).TransformPoints(points.tolist()), np.float64)[:, :2]
    out[~np.isfinite(out).all(1)] = np.nan
    return out


@functools.lru_cache(maxsize=64)
def to_degrees(projection: str) -> Any:
    """The transformation from the CRS of that WKT to WGS 84."""
    osr = import_gdal("a scene", "osr")
    source, target = osr.SpatialReference(wkt=projection), osr.SpatialReference()
    target.ImportFromEPSG(4326)
    for srs in (source, target):
        srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return osr.CoordinateTransformation(source, target)
