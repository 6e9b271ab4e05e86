"""A georeferenced raster as a classifier needs it: bands chosen and checked against the sensor card, read window by
window.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data.conform import fits
from rsssl.data.raster import NUMPY_TYPES, gdal_type, import_gdal, quiet
from rsssl.errors import UserError
from rsssl.geo.bands import choose, names_of
from rsssl.geo.fit import fit
from rsssl.geo.grid import Grid
from rsssl.models.bands import shown_bands
from rsssl.models.card import SensorCard

CACHE = 256 << 20  # bytes of blocks that GDAL may keep; its own default is a twentieth of the machine's memory


class Window(NamedTuple):
    """A part of a scene.

    Args:
        values: (C, h, w) in the card's stored units, as the file has them or float32.
        missing: (C, h, w) bool: bands without a value; None for none.
        outside: (h, w) bool: pixels that are not part of the scene; None for none.
    """

    values: np.ndarray
    missing: np.ndarray | None
    outside: np.ndarray | None


class Scene:
    """A raster that fits a sensor card, or is made to.

    A pixel is outside (nodata in a map) where the dataset's mask or alpha band says so, or where every chosen band is
    nodata or NaN; a band that alone is nodata counts as missing, as it does in training.

    Args:
        path: anything that GDAL opens.
        card: what the classifier was trained on.
        bands: for each band of the card the scene's band, by number (from 1) or name; None: by name where the names say
            it, in order where there are none and the numbers agree.
        nodata: a value that means "nothing here", beside what the file declares.
        values: what to do with values that do not fit: None refuses them; "cast" takes another type's numbers as they
            are; "moments" shifts and scales each band to the card's mean and standard deviation.

    Raises:
        UserError: when the file cannot be opened or does not fit, with the difference and what to type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        card: SensorCard,
        bands: Sequence[Any] | None = None,
        nodata: float | None = None,
        values: str | None = None,
    ) -> None:
        gdal = import_gdal(path)
        gdal.SetCacheMax(CACHE)
        self.path, self.name, self.card = os.fspath(path), Path(path).name, card
        try:
            with quiet(gdal):
                self._dataset = gdal.Open(self.path)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be opened as a raster ({error}): type scene=FILE") from error
        if self._dataset.RasterCount == 0:
            raise UserError(
                f"{path} holds no raster band: type scene=FILE with one of its parts, as gdalinfo lists them"
            )
        self.grid = Grid.of(self._dataset)
        self.names = names_of(gdal, self._dataset)
        self.bands = choose(self.names, card, bands, path)
        self._bands = [self._dataset.GetRasterBand(b) for b in self.bands]
        kinds = {gdal.GetDataTypeName(band.DataType) for band in self._bands}
        kind = next(iter(kinds))
        if len(kinds) > 1:
            raise UserError(
                f"{path}: its bands are of different types: make them one, gdal_translate -ot UInt16 IN OUT"
            )
        if kind not in NUMPY_TYPES:
            raise UserError(f"{path} holds pixels of type {kind}: convert it, gdal_translate -ot Float32 IN OUT")
        dtype = NUMPY_TYPES[kind]
        self.dtype = "float32" if dtype == "float64" else dtype
        self._numpy = np.dtype("float64" if dtype in ("uint32", "int32") else dtype)  # that pixels are read as
        card_nodata = card.nodata if values != "moments" else None  # in the training it meant nothing either
        self.nodata = [
            [v for v in {band.GetNoDataValue(), nodata, card_nodata} if v is not None] for band in self._bands
        ]
        plain = (gdal.GMF_ALL_VALID, gdal.GMF_NODATA)
        self._mask = self._bands[0].GetMaskBand() if self._bands[0].GetMaskFlags() not in plain else None
        self._gain, self._offset = fit(self, values)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.grid.height, self.grid.width

    def read(self, y: int, x: int, h: int, w: int) -> Window:
        """Rows y..y+h, columns x..x+w, which may reach beyond the scene: there it is mirrored, and outside."""
        rows, cols = _mirror(y, h, self.grid.height), _mirror(x, w, self.grid.width)
        y0, x0 = int(rows.min()), int(cols.min())
        n_rows, n_cols = int(rows.max()) - y0 + 1, int(cols.max()) - x0 + 1
        values, missing, outside = self.part(x0, y0, n_cols, n_rows)
        if n_rows != h or n_cols != w:
            iy, ix = (rows - y0)[:, None], (cols - x0)[None, :]
            values = values[:, iy, ix]
            missing = None if missing is None else missing[:, iy, ix]
            down, across = np.arange(y, y + h), np.arange(x, x + w)
            inside_rows, inside_cols = (
                (down >= 0) & (down < self.grid.height),
                (across >= 0) & (across < self.grid.width),
            )
            beyond = ~(inside_rows[:, None] & inside_cols[None])
            outside = beyond if outside is None else beyond | outside[iy, ix]
        if self._gain is not None:
            values = values.astype(np.float32) * self._gain + self._offset
        return Window(values.astype(np.float32) if values.dtype == np.float64 else values, missing, outside)

    def part(self, x: int, y: int, w: int, h: int, shape: tuple[int, int] | None = None) -> Window:
        """A part of the file as it is, inside the scene.

        Args:
            x: the first column.
            y: the first row.
            w: columns.
            h: rows.
            shape: (height, width) that the part is thinned out to; None for all pixels.

        Raises:
            UserError: where the file cannot be read.
        """
        gdal = import_gdal(self.path)
        rows, cols = shape or (h, w)
        try:
            with quiet(gdal):  # a handler is a thread's own, and blocks are read ahead in another
                kind = gdal_type(gdal, self._numpy)
                data = self._dataset.ReadRaster(x, y, w, h, cols, rows, buf_type=kind, band_list=self.bands)
                covered = self._mask.ReadRaster(x, y, w, h, cols, rows) if self._mask is not None else b""
        except RuntimeError as error:
            where = f"row {y}, column {x}"
            raise UserError(f"{self.path} cannot be read at {where} ({error}): copy the file again") from error
        values = np.frombuffer(data, self._numpy).reshape(len(self.bands), rows, cols)
        missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for plane, band, nodata in zip(missing, values, self.nodata, strict=True):
            for value in nodata:
                if band.dtype.kind == "f" or fits(value, band.dtype):
                    plane |= band == band.dtype.type(value)
        outside = np.logical_and.reduce(missing)
        if self._mask is not None:
            outside |= np.frombuffer(covered, np.uint8).reshape(rows, cols) == 0
        return Window(values, missing if missing.any() else None, outside if outside.any() else None)

    def files(self) -> list[Path]:
        """The files that GDAL reads."""
        return [file for name in self._dataset.GetFileList() or [] if (file := Path(name)).is_file()]

    def fingerprint(self) -> list[list[Any]]:
        """The files with their sizes and times, which change with the scene. What viewers leave beside it does not
        count.
        """
        stats = [(file, file.stat()) for file in self.files() if not file.name.endswith(".aux.xml")]
        path = str(Path(self.path).resolve()) if Path(self.path).exists() else self.path
        return [[path, *self.size], *([f.name, s.st_size, s.st_mtime_ns] for f, s in stats)]

    def thumbnail(self, shape: tuple[int, int]) -> np.ndarray:
        """A picture (h, w, 3) uint8 of the scene, of that shape.

        It shows the bands named red, green and blue, or the first ones, each between its 2nd and 98th percentile;
        outside is white.
        """
        values, missing, outside = self.part(0, 0, self.grid.width, self.grid.height, shape)
        shown = shown_bands(self.card.bands)
        hidden = np.zeros(shape, bool) if outside is None else outside
        out = np.full((*shape, 3), 255, np.uint8)
        for channel, i in enumerate(shown):
            seen = ~hidden if missing is None else ~hidden & ~missing[i]
            plane = np.where(seen, values[i], 0).astype(np.float64)
            low, high = np.percentile(plane[seen], (2, 98)) if seen.any() else (0.0, 1.0)
            out[..., channel] = np.clip((plane - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
        out[hidden] = 255
        return out

    def metres(self) -> float | None:
        """Metres a pixel (the root of its area), None where the scene does not say."""
        if self.grid.geotransform is None or not self.grid.projection:
            return None
        t = self.grid.geotransform
        reference = import_gdal(self.path, "osr").SpatialReference(wkt=self.grid.projection)
        area = abs(t[1] * t[5] - t[2] * t[4])
        if reference.IsGeographic():
            middle = t[3] + t[4] * self.grid.width / 2 + t[5] * self.grid.height / 2
            return math.sqrt(area * 111_320.0**2 * math.cos(math.radians(middle)))
        return math.sqrt(area) * reference.GetLinearUnits()


def _mirror(start: int, n: int, size: int) -> np.ndarray:
    """Positions start..start+n of a line of `size` pixels that goes on mirrored at both ends."""
    at = np.arange(start, start + n) % (2 * size)
    return np.where(at < size, at, 2 * size - 1 - at)
