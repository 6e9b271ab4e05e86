"""Where labels and scenes lie, in words: for a message that they lie in different places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsssl.data.grid import below
from rsssl.data.raster import import_gdal
from rsssl.data.scene_file import SceneFile
from rsssl.geo.laying import geotransform_of
from rsssl.geo.vectors import VectorFile


def of_labels(file: VectorFile) -> str:
    """The extent of points and polygons in their own CRS."""
    places = [part.GetEnvelope() for feature in file.features("") for part in feature.parts]
    if not places:
        return "nowhere: no feature has both a class and a geometry"
    left, right, low, high = zip(*places, strict=True)
    return extent((min(left), max(right)), (min(low), max(high)), file.reference())


def of_scene(scene: SceneFile) -> str:
    """The extent of a scene in its own CRS."""
    transform, (h, w) = geotransform_of(scene), scene.size
    corners = [below(transform, x, y) for x in (0, w) for y in (0, h)]
    osr = import_gdal(scene.path, "osr")
    srs = osr.SpatialReference(wkt=scene.grid.projection) if scene.grid.projection else None
    return extent([corner[0] for corner in corners], [corner[3] for corner in corners], srs)


def extent(xs: Sequence[float], ys: Sequence[float], srs: Any) -> str:
    """ "x 500,000 to 503,200, y 5,596,800 to 5,600,000 in WGS 84 / UTM zone 32N (EPSG:32632)"; degrees with decimals.

    Args:
        xs: of which the least and the largest count; longitudes where the CRS is in degrees.
        ys: the same upwards.
        srs: an osr.SpatialReference; None for no CRS.
    """
    digits = 4 if (srs.IsGeographic() if srs else max(map(abs, (*xs, *ys))) <= 360) else 0
    x, y = (f"{min(side):,.{digits}f} to {max(side):,.{digits}f}" for side in (xs, ys))
    code = srs.GetAuthorityCode(None) if srs else None
    crs = "no CRS" if srs is None else f"{srs.GetName()} (EPSG:{code})" if code else srs.GetName()
    return f"x {x}, y {y} in {crs}"
