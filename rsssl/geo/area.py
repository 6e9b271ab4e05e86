"""Ground area of the pixels of any grid, on the ellipsoid of its CRS, and its sum by class.

Corners of small cells go to longitude and latitude and from there to an equal-area plane, where the shoelace formula
gives a quadrilateral's area (J. P. Snyder, Map Projections: A Working Manual, USGS 1987, equations 3-11 to 3-13, 10-1).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.grid import Grid
from rsssl.data.raster import import_gdal, quiet
from rsssl.engine.files import write_atomic
from rsssl.geo.style import printable

CELL_METRES = 10_000.0  # at most, along a side: edges are then straight, and pixels equal, to a few parts in a million
DEGREE_METRES = 111_320.0  # of the Earth, at the equator: only to choose the size of cells


class Areas:
    """Ground area by class, added up block by block.

    Args:
        grid: of the scene.
        n_classes: K; numbers outside 0..K-1 are nodata and not counted.
        cell: pixels along a side of the cells whose area is measured (their pixels share it equally); fewer where
          pixels are so large that the cell would be more than 10 km wide.

    Attributes:
        pixels: (K,) int64, those counted so far.
    """

    def __init__(self, grid: Grid, n_classes: int, cell: int = 64) -> None:
        self.grid, self.pixels = grid, np.zeros(n_classes, np.int64)
        self._ground = _Ground.of(grid)
        self._square_metres = np.zeros(n_classes)
        self._cell = cell
        self._line = lru_cache(maxsize=2)(self._corners)  # a row of cells begins where the last one ended
        if self._ground is not None and grid.geotransform is not None:
            _, a, b, _, d, e = grid.geotransform
            pixel = max(np.hypot(a, d), np.hypot(b, e)) * self._ground.metres
            self._cell = int(np.clip(CELL_METRES // pixel, 1, cell)) if pixel > 0 else cell

    def add(self, x: int, y: int, classes: np.ndarray) -> None:
        """Counts a block.

        Args:
            x: the column of its upper left pixel in the grid.
            y: the row of that.
            classes: (h, w) class numbers.
        """
        k, cell = len(self.pixels), self._cell
        h, w = classes.shape
        columns = np.arange(x, x + w) // cell - x // cell
        for row in range(y // cell, (y + h - 1) // cell + 1):
            part = classes[max(row * cell - y, 0) : (row + 1) * cell - y].astype(np.intp)
            part[(part < 0) | (part > k)] = k
            counts = np.bincount(part.ravel(), minlength=k + 1)[:k]
            self.pixels += counts
            if self._ground is not None and counts.any():
                area = np.broadcast_to(self._row(row, x // cell, (x + w - 1) // cell)[columns], part.shape)
                self._square_metres += np.bincount(part.ravel(), weights=area.ravel(), minlength=k + 1)[:k]

    def hectares(self) -> np.ndarray | None:
        """(K,) float64; None without a CRS or a geotransform, or where the CRS is not tied to the Earth.

        NaN for classes with pixels outside what the projection can show, as beyond the limb of a geostationary view.
        """
        return None if self._ground is None else self._square_metres / 1e4

    def _row(self, row: int, first: int, last: int) -> np.ndarray:
        """(last - first + 1,) m2 of one pixel of the cells first..last of that row of cells."""
        assert self._ground is not None
        grid, cell = self.grid, self._cell
        above, below = self._line(row, first, last), self._line(row + 1, first, last)
        columns = np.minimum(np.arange(first, last + 2) * cell, grid.width)
        high = min((row + 1) * cell, grid.height) - row * cell
        corners = np.stack([above[:-1], above[1:], below[1:], below[:-1]], axis=1)  # (cells, 4, 2), around the cell
        return self._ground.areas(corners) / (np.diff(columns) * high)

    def _corners(self, row: int, first: int, last: int) -> np.ndarray:
        """(last - first + 2, 2) longitude and latitude, in radians, of the corners of cells on one line."""
        assert self._ground is not None and self.grid.geotransform is not None
        x0, a, b, y0, d, e = self.grid.geotransform
        column = np.minimum(np.arange(first, last + 2) * self._cell, self.grid.width)
        line = min(row * self._cell, self.grid.height)
        return self._ground.geographic(np.stack([x0 + a * column + b * line, y0 + d * column + e * line], axis=1))


class _Ground:
    """The ellipsoid under a CRS (an osr.SpatialReference), and the way there."""

    def __init__(self, srs: Any) -> None:
        osr, self._gdal = import_gdal("the scene", "osr"), import_gdal("the scene")
        self.is_geographic = bool(srs.IsGeographic())
        geographic = srs.CloneGeogCS()
        for crs in (srs, geographic):
            crs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        self._transform = None if self.is_geographic else osr.CoordinateTransformation(srs, geographic)
        self._unit = geographic.GetAngularUnits()  # in radians: there are grads too
        self.metres = np.degrees(self._unit) * DEGREE_METRES if self.is_geographic else srs.GetLinearUnits()
        flattening = 1 / srs.GetInvFlattening() if srs.GetInvFlattening() else 0.0  # 0 stands for a sphere
        self._e2 = flattening * (2 - flattening)
        self._pole = self._q(np.array(1.0))
        self.radius = srs.GetSemiMajor() * float(np.sqrt(self._pole / 2))  # of the sphere of equal area, eq. 3-13

    @classmethod
    def of(cls, grid: Grid) -> _Ground | None:
        """That of a grid; None where the grid does not say where on the Earth it lies."""
        if grid.geotransform is None or not grid.projection:
            return None
        srs = import_gdal("the scene", "osr").SpatialReference(wkt=grid.projection)
        return cls(srs) if srs.IsGeographic() or srs.IsProjected() else None

    def geographic(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) of the CRS to longitude and latitude in radians; inf where the projection has no such place."""
        if self._transform is None:
            limit = np.pi / 2
            return np.stack([points[:, 0] * self._unit, np.clip(points[:, 1] * self._unit, -limit, limit)], axis=1)
        with quiet(self._gdal):
            try:
                degrees = self._transform.TransformPoints(points.tolist())
            except RuntimeError:  # one of them is off the map, and then none is transformed
                degrees = [self._one(point) for point in points.tolist()]
        return np.asarray(degrees, np.float64)[:, :2] * self._unit

    def _one(self, point: list[float]) -> tuple[float, float, float]:
        try:
            return tuple(self._transform.TransformPoint(*point))  # type: ignore[union-attr, return-value]
        except RuntimeError:
            return np.inf, np.inf, np.inf

    def _q(self, sine: np.ndarray) -> np.ndarray:
        """Snyder's q (3-12) of the sine of latitudes."""
        if self._e2 == 0:
            return 2 * sine
        e = np.sqrt(self._e2)
        return (1 - self._e2) * (sine / (1 - self._e2 * sine**2) + np.arctanh(e * sine) / e)

    def areas(self, corners: np.ndarray) -> np.ndarray:
        """(N,) m2 of quadrilaterals (N, 4, 2) of longitude and latitude in radians; NaN where a corner is not
        finite.
        """
        with np.errstate(invalid="ignore"):
            longitude, authalic = corners[..., 0], self._q(np.sin(corners[..., 1])) / self._pole  # sine of it, eq. 3-11
            if self.is_geographic:  # edges follow meridians and parallels, and longitudes are never wrapped
                return _shoelace(longitude, authalic) * self.radius**2
            turn = longitude - longitude[:, :1]
            straight = _shoelace((turn + np.pi) % (2 * np.pi) - np.pi, authalic)
            # Towards the poles meridians meet: there an azimuthal plane, centred on the pole, bends edges less.
            side = np.where(authalic[:, :1] < 0, -1.0, 1.0)
            distance = np.sqrt(np.maximum(2 * (1 - side * authalic), 0))
            polar = _shoelace(distance * np.cos(longitude), distance * np.sin(longitude))
            area = np.where(np.abs(authalic).max(axis=1) > 0.7, polar, straight) * self.radius**2
            return np.where(np.isfinite(corners).all(axis=(1, 2)), area, np.nan)


def _shoelace(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area of quadrilaterals from their diagonals: small differences of large numbers are taken once, not
    multiplied.
    """
    return np.abs((x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (x[:, 3] - x[:, 1]) * (y[:, 2] - y[:, 0])) / 2


def write_areas(path: Path, classes: Sequence[str], pixels: np.ndarray, hectares: np.ndarray | None) -> None:
    """A CSV with a line for each class: its number, name, pixels, share of all counted pixels (0..1) and hectares.

    Args:
        path: the file.
        classes: K names.
        pixels: (K,) counts.
        hectares: (K,); None, or NaN for a class, where they are not known: the column is then empty.

    Raises:
        UserError: as `rsssl.engine.files.write_atomic`.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class_number", "class", "pixels", "share", "hectares"])
    total = max(int(pixels.sum()), 1)
    for number, name in enumerate(classes):
        area = "" if hectares is None or np.isnan(hectares[number]) else f"{hectares[number]:.4f}"
        table.writerow([number, printable(name), int(pixels[number]), f"{pixels[number] / total:.6f}", area])
    write_atomic(path, text.getvalue().encode())
