"""A georeferenced raster, read window by window: its values, and where it has none."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data.conform import fits
from rsssl.data.grid import RAISED, Grid, told
from rsssl.data.raster import NUMPY_TYPES, gdal_type, import_gdal, open_gdal, quiet, type_of
from rsssl.errors import UserError
from rsssl.models.bands import COLOURS

CACHE = 256 << 20  # bytes of blocks that GDAL may keep; its own default is a twentieth of the machine's memory


class Window(NamedTuple):
    """A part of a scene.

    Args:
        values: (C, h, w) in the stored units, as the file has them or float32.
        missing: (C, h, w) bool: bands without a value; None for none.
        outside: (h, w) bool: pixels that are not part of the scene; None for none.
    """

    values: np.ndarray
    missing: np.ndarray | None
    outside: np.ndarray | None


class SceneFile:
    """An open raster. `use` says which of its bands are read, and what means nothing in them.

    A pixel is outside where the dataset's mask or alpha band says so, or where every band in use is nodata or NaN; a
    band that alone is nodata is missing there.

    Args:
        path: anything that GDAL opens; see `open_gdal`.
        key: that gave the path, for messages.

    Raises:
        UserError: when it cannot be opened or has no bands.
    """

    def __init__(self, path: str | os.PathLike[str], key: str = "scene") -> None:
        gdal = import_gdal(path)
        gdal.SetCacheMax(CACHE)
        self.path, self.name = os.fspath(path), Path(path).name
        try:
            self._dataset = open_gdal(self.path, gdal.OF_RASTER)
        except RAISED as error:
            raise UserError(f"{path} cannot be opened as a raster ({error}): type {key}=FILE") from error
        if self._dataset.RasterCount == 0:
            raise UserError(
                f"{path} holds no raster band: type {key}=FILE with one of its parts, which QGIS lists when it opens "
                "the file"
            )
        with told(path, f"{key}= with another file"):
            self.grid = Grid.of(self._dataset)
            self.names = names_of(gdal, self._dataset)
            self.block: tuple[int, int] = tuple(self._dataset.GetRasterBand(1).GetBlockSize())

    def colour_bands(self) -> list[int]:
        """The numbers (from 1) of its bands without an alpha band."""
        gdal = import_gdal(self.path)
        bands = range(1, self._dataset.RasterCount + 1)
        alpha = [self._dataset.GetRasterBand(b).GetColorInterpretation() == gdal.GCI_AlphaBand for b in bands]
        return [b for b, is_alpha in zip(bands, alpha, strict=True) if not is_alpha]

    def use(self, bands: Sequence[int], nodata: Sequence[float | None] = ()) -> None:
        """Chooses what is read.

        Args:
            bands: their numbers, from 1.
            nodata: values that mean "nothing here", beside what the file declares.

        Raises:
            UserError: for bands of different or of unknown types.
        """
        gdal = import_gdal(self.path)
        self.bands = list(bands)
        self._bands = [self._dataset.GetRasterBand(b) for b in self.bands]
        kinds = {type_of(gdal, band) for band in self._bands}
        kind = next(iter(kinds))
        if len(kinds) > 1:
            raise UserError(
                f"{self.path}: its bands are of different types: make them one, gdal_translate -ot UInt16 IN OUT"
            )
        if kind not in NUMPY_TYPES:
            raise UserError(f"{self.path} holds pixels of type {kind}: convert it, gdal_translate -ot Float32 IN OUT")
        dtype = NUMPY_TYPES[kind]
        self.dtype = "float32" if dtype == "float64" else dtype
        self._numpy = np.dtype("float64" if dtype in ("uint32", "int32") else dtype)  # that pixels are read as
        self.nodata = [[v for v in {band.GetNoDataValue(), *nodata} if v is not None] for band in self._bands]
        plain = (gdal.GMF_ALL_VALID, gdal.GMF_NODATA)
        self._mask = self._bands[0].GetMaskBand() if self._bands[0].GetMaskFlags() not in plain else None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.grid.height, self.grid.width

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
        missing = self._missing(values)
        outside = np.zeros((rows, cols), bool) if missing is None else np.logical_and.reduce(missing)
        if self._mask is not None:
            outside |= np.frombuffer(covered, np.uint8).reshape(rows, cols) == 0
        return Window(values, missing, outside if outside.any() else None)

    def _missing(self, values: np.ndarray) -> np.ndarray | None:
        """(C, h, w) bool: where bands (C, h, w) have no value; None for nowhere."""
        if values.dtype.kind != "f" and not any(self.nodata):
            return None
        missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for plane, band, nodata in zip(missing, values, self.nodata, strict=True):
            for value in nodata:
                if band.dtype.kind == "f" or fits(value, band.dtype):
                    plane |= band == band.dtype.type(value)
        return missing if missing.any() else None

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

    def metres(self) -> float | None:
        """Metres a pixel (the root of its area), None where the scene does not say."""
        if self.grid.geotransform is None or not self.grid.projection:
            return None
        t = self.grid.geotransform
        reference = import_gdal(self.path, "osr").SpatialReference(wkt=self.grid.projection)
        area = abs(t[1] * t[5] - t[2] * t[4])
        if reference.IsGeographic():
            middle = t[3] + t[4] * self.grid.width / 2 + t[5] * self.grid.height / 2
            return math.sqrt(area * 111_320.0**2 * math.cos(math.radians(max(-90, min(90, middle)))))
        return math.sqrt(area) * reference.GetLinearUnits()


def names_of(gdal: Any, dataset: Any) -> list[str]:
    """The bands' descriptions; where there are none, the colours that the file gives them.

    Args:
        gdal: its bindings.
        dataset: an open gdal.Dataset.
    """
    bands = [dataset.GetRasterBand(i + 1) for i in range(dataset.RasterCount)]
    names = [band.GetDescription() for band in bands]
    if any(names):
        return names
    colours = [gdal.GetColorInterpretationName(band.GetColorInterpretation()).lower() for band in bands]
    return [c if c in COLOURS or c == "alpha" else "" for c in colours] if set(COLOURS) <= set(colours) else names
