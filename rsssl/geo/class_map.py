"""A map of classes, read block by block: whatever wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.errors import UserError, nearest
from rsssl.geo.area import Areas
from rsssl.geo.product import Grid

BLOCK = 1 << 20  # pixels read at once: some 50 MB of numbers
MOST = 1000  # different values of a map; more, and it is no map of classes


class ClassMap:
    """The first band of a raster as classes 0..K-1, read block by block.

    Classes are the pixel values that the band's category names name, and those that occur; in order of their value. Pixels
    that are nodata (by value, mask or alpha) are -1.

    Attributes: values (K,) int64, names: K names (the number where there is none), grid, shape (H, W).

    Raises:
        UserError: when the file cannot be opened, or is not a map of classes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._dataset = open_dataset(path, "scene", raster=True)
        self._band = self._dataset.GetRasterBand(1)
        self.grid = Grid.of(self._dataset)
        self.shape = self._dataset.RasterYSize, self._dataset.RasterXSize
        self.geotransform = tuple(self._dataset.GetGeoTransform())
        self.projection: str = self._dataset.GetProjection()
        names = {i: name for i, name in enumerate(self._band.GetCategoryNames() or []) if name.strip()}
        found: set[int] = set(names)
        for window in windows(*self.shape):
            values, valid = numbers(self._band, *window)
            found.update(map(int, distinct(values[valid])))
            if len(found) > MOST:
                raise UserError(
                    f"{path} has more than {MOST} different values, so it is not a map of classes: type scene=MAP"
                )
        if not found:
            raise UserError(f"{path} has no valid pixel: type scene=MAP with a map of classes")
        self.values = np.array(sorted(found), np.int64)
        plain = [names.get(v, str(v)) for v in sorted(found)]
        self.names = [n if plain.count(n) == 1 else f"{n} ({v})" for n, v in zip(plain, sorted(found), strict=True)]

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        """The classes (h, w) int64 of the window whose first pixel is column x, row y; -1 for nodata."""
        values, valid = numbers(self._band, x, y, w, h)
        return np.where(valid, np.searchsorted(self.values, np.where(valid, values, self.values[0])), -1)

    def areas(self) -> tuple[np.ndarray, str]:
        """Each class's mapped area (K,) and its unit: "ha", or "pixels" where the map's CRS does not say how large they are."""
        areas = Areas(self.grid, len(self.values))
        for x, y, w, h in windows(*self.shape):
            areas.add(x, y, self.read(x, y, w, h))
        hectares = areas.hectares()
        if hectares is None or not np.isfinite(hectares).all():
            return areas.pixels.astype(np.float64), "pixels"
        return hectares, "ha"

    def class_of(self, value: Any, where: str) -> int:
        """The class that a reference calls `value`: by name, exactly and then whatever its case and joints, or by number.

        Raises:
            UserError: naming `where` the value stands and the class most like it, for one that the map has not got.
        """
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if text in self.names:
            return self.names.index(text)
        alike = [i for i, name in enumerate(self.names) if _fold(name) == _fold(text)]
        if len(alike) == 1:
            return alike[0]
        if re.fullmatch(r"[+-]?\d+(\.0*)?", text) and int(float(text)) in self.values:
            return int(np.searchsorted(self.values, int(float(text))))
        close = nearest(text, self.names)
        listed = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
        raise UserError(
            f"{where}: the class {text!r} is not in {self.path}, which has {listed}: "
            + (f"write {close!r} in the reference" if close else "rename it in the reference, or leave it out there")
        )


def windows(height: int, width: int, x: int = 0, y: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """The area of that size from (x, y) on as windows (x, y, w, h) of whole rows and at most about `BLOCK` pixels."""
    rows = max(1, BLOCK // max(width, 1))
    for top in range(y, y + height, rows):
        yield x, top, width, min(rows, y + height - top)


def numbers(band: Any, x: int, y: int, w: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """A window of a band as (h, w) int64 and where it is valid (h, w) bool.

    Raises:
        UserError: for fractions.
    """
    gdal = import_gdal(band.GetDataset().GetDescription())
    raw = np.frombuffer(band.ReadRaster(x, y, w, h, buf_type=gdal.GDT_Float64), np.float64).reshape(h, w)
    valid = np.isfinite(raw)
    if band.GetMaskFlags() != gdal.GMF_ALL_VALID:
        mask = band.GetMaskBand().ReadRaster(x, y, w, h, buf_type=gdal.GDT_Byte)
        valid &= np.frombuffer(mask, np.uint8).reshape(h, w) > 0
    values = np.where(valid, raw, 0).astype(np.int64)
    if (values != raw)[valid].any():
        raise UserError(
            f"{band.GetDataset().GetDescription()} holds fractions, so it is not a map of classes: give one of whole "
            "numbers, scene=MAP and reference=FILE"
        )
    return values, valid


def distinct(values: np.ndarray) -> np.ndarray:
    """The different values, rising; without a sort for the small numbers that classes are."""
    if values.size and values.min() >= 0 and values.max() < 1 << 16:
        return np.flatnonzero(np.bincount(values))
    return np.unique(values)


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def open_dataset(path: str | os.PathLike[str], key: str, raster: bool = False, options: Sequence[str] = ()) -> Any:
    """What GDAL opens; options: those of its driver, NAME=VALUE."""
    gdal = import_gdal(os.fspath(path))
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        dataset = gdal.OpenEx(
            os.fspath(path), gdal.OF_RASTER if raster else gdal.OF_RASTER | gdal.OF_VECTOR, open_options=list(options)
        )
    except RuntimeError as error:
        reason = f"cannot be opened ({error})" if os.path.exists(path) else "does not exist"
        raise UserError(f"{key}={path} {reason}: type {key}=FILE") from error
    finally:
        gdal.PopErrorHandler()
    if dataset.RasterCount == 0 and (raster or dataset.GetLayerCount() == 0):
        raise UserError(
            f"{key}={path} holds {'no raster band' if raster else 'nothing to compare with'}: type {key}=FILE"
        )
    return dataset
