"""Where the pixels of a raster lie."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rsssl.errors import UserError

log = logging.getLogger(__name__)
RAISED = (RuntimeError, UnicodeError)  # by GDAL: its own errors, and names and messages that are no UTF-8
GCP = tuple[float, float, float, float, float]  # column, row, x, y, z


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie.

    Args:
        width: in pixels.
        height: in pixels.
        geotransform: GDAL's (x0, dx per column, dx per row, y0, dy per column, dy per row) of the upper left corner of
            the upper left pixel, in units of the CRS; None where the raster has none.
        projection: its CRS as WKT, "" for none.
        gcps: ground control points, of rasters that have these in place of a geotransform.
        gcp_projection: their CRS.
    """

    width: int
    height: int
    geotransform: tuple[float, ...] | None = None
    projection: str = ""
    gcps: tuple[GCP, ...] = ()
    gcp_projection: str = ""

    @classmethod
    def of(cls, dataset: Any) -> Grid:
        """The grid of an open gdal.Dataset."""
        transform = dataset.GetGeoTransform(can_return_null=True)
        gcps = tuple((p.GCPPixel, p.GCPLine, p.GCPX, p.GCPY, p.GCPZ) for p in dataset.GetGCPs())
        crs, gcp_crs = _wkt(dataset.GetSpatialRef()), _wkt(dataset.GetGCPSpatialRef())
        size = dataset.RasterXSize, dataset.RasterYSize
        if transform and not places(transform):
            log.warning("%s: its geotransform %s places no pixel, and is not used", dataset.GetDescription(), transform)
            transform = None
        return cls(*size, tuple(transform) if transform else None, crs, gcps, gcp_crs)

    def put_on(self, dataset: Any, gdal: Any) -> None:
        """Georeferences a gdal.Dataset of the same size."""
        if self.projection:
            dataset.SetProjection(self.projection)
        if self.geotransform is not None:
            dataset.SetGeoTransform(list(self.geotransform))
        elif self.gcps:  # a GeoTIFF holds one or the other
            points = [gdal.GCP(x, y, z, column, row) for column, row, x, y, z in self.gcps]
            dataset.SetGCPs(points, self.gcp_projection)


@contextmanager
def told(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turns what GDAL raises for a damaged file into a sentence.

    Args:
        path: of the file.
        what: to type, at the end.

    Raises:
        UserError: for what GDAL raises.
    """
    try:
        yield
    except RAISED as error:
        reason = str(error).strip().partition("\n")[0] or "it is damaged"
        raise UserError(f"{path} cannot be read ({reason}): type {what}") from error


def places(geotransform: Sequence[float]) -> bool:
    """Whether a geotransform gives each pixel a place of its own: its numbers are finite, and its pixels have an
    area."""
    _, dx, rx, _, ry, dy = geotransform
    return all(map(math.isfinite, geotransform)) and 0 < abs(dx * dy - rx * ry) < math.inf


def below(geotransform: tuple[float, ...], x: int, y: int) -> tuple[float, ...]:
    """The geotransform of the part of a raster that begins at column x, row y."""
    x0, dx, rx, y0, ry, dy = geotransform
    return x0 + x * dx + y * rx, dx, rx, y0 + x * ry + y * dy, ry, dy


def _wkt(srs: Any) -> str:
    return "" if srs is None else str(srs.ExportToWkt(["FORMAT=WKT2_2018"]))  # some CRSs cannot be written in WKT 1
