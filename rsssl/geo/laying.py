"""How windows are laid on what is drawn on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rsssl.data.scene_file import SceneFile
from rsssl.errors import UserError
from rsssl.geo.vectors import VectorFile


@dataclass(frozen=True)
class Cut:
    """How windows are laid on labels.

    Args:
        window: pixels of a side.
        stride: pixels from one window of a polygon or class raster to the next.
        inside: share of a window that its polygon, or its class in a class raster, has to fill.
        most: windows of a class raster.
    """

    window: int
    stride: int
    inside: float
    most: int


def starts(first: int, last: int, size: int, cut: Cut) -> np.ndarray:
    """The first pixels of windows on a line, evenly around the middle of pixels first..last of `size`."""
    window, length = cut.window, last - first
    reach = max(0, length - window + round(2 * (1 - cut.inside) * window))  # windows may stick out at both ends
    n = reach // cut.stride + 1
    middle = (first + last - window) / 2
    at = np.rint(middle + (np.arange(n) - (n - 1) / 2) * cut.stride).astype(int)
    return np.unique(np.clip(at, 0, size - window))


def thinned(at: np.ndarray, most: int = 30) -> np.ndarray:
    """So many of some positions (n,), evenly spread."""
    return at[np.unique(np.rint(np.linspace(0, len(at) - 1, min(most, len(at)))).astype(int))]


def overlap(one: Any, other: Any) -> bool:
    """Whether a point lies on another, or in a polygon, or two polygons share ground."""
    try:
        if not one.Intersects(other):
            return False
        if one.GetDimension() == 0 or other.GetDimension() == 0:
            return True
        shared = one.Intersection(other)
        smaller = min(one.GetArea(), other.GetArea())
        return shared is not None and shared.GetArea() > 0.001 * smaller
    except RuntimeError:  # GEOS minds crossing edges
        return False


def geotransform_of(scene: SceneFile) -> tuple[float, ...]:
    """The scene's geotransform.

    Raises:
        UserError: where it has none.
    """
    if scene.grid.geotransform is None:
        raise UserError(
            f"{scene.path} does not say where its pixels lie, so labels cannot be laid on it: type gdalwarp (for "
            "ground control points) or gdal_edit.py -a_srs -a_ullr"
        )
    return scene.grid.geotransform


def placement(scene: SceneFile, file: VectorFile) -> str:
    """The CRS that a file's features are brought into; "" to take their coordinates as they are."""
    return "" if file.in_raster_crs else scene.grid.projection


def sides(file: VectorFile, scene: SceneFile) -> list[float]:
    """The roots of the areas of a file's polygons, in pixels of a scene."""
    _, dx, rx, _, ry, dy = geotransform_of(scene)
    pixel = abs(dx * dy - rx * ry) ** 0.5
    polygons = (
        part
        for feature in file.features(placement(scene, file))
        for part in feature.parts
        if feature.kind == "polygons" and part is not None
    )
    return [polygon.GetArea() ** 0.5 / pixel for polygon in polygons]
