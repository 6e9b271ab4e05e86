"""A map of classes, read block by block: whatever wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.grid import RAISED, Grid, below, told
from rsssl.data.raster import import_gdal, open_gdal, quiet, type_of
from rsssl.errors import UserError, nearest
from rsssl.geo.area import Areas

BLOCK = 1 << 20  # pixels read at once: some 50 MB of numbers
MOST = 1000  # different values of a map; more, and it is no map of classes


class ClassMap:
    """The first band of a raster as classes 0..K-1, read block by block.

    Classes are the pixel values that the band's category names name, and those that occur; in order of their value.
    Pixels that are nodata (by value, mask or alpha) are -1.

    Args:
        path: anything that GDAL opens.
        block: about how many pixels are read at once.

    Attributes:
        values: (K,) int64 pixel values.
        names: K names (the number where there is none).
        grid: where the pixels lie.
        shape: (H, W).

    Raises:
        UserError: when the file cannot be opened, or is not a map of classes.
    """

    def __init__(self, path: str | os.PathLike[str], block: int = BLOCK) -> None:
        self.path, self._block = Path(path), block
        self._dataset = open_dataset(path, "class_map", raster=True)
        with told(path, "class_map= with another file"):
            self._band = self._dataset.GetRasterBand(1)
            self.grid = Grid.of(self._dataset)
            self.shape = self._dataset.RasterYSize, self._dataset.RasterXSize
            self.geotransform = tuple(self._dataset.GetGeoTransform())
            self.projection: str = self._dataset.GetProjection()
            names = category_names(self._band)
            placed = self._dataset.GetGeoTransform(can_return_null=True) is not None
        if placed and self.grid.geotransform is None:
            raise UserError(f"{path} does not say where its pixels lie: type gdal_edit.py -a_ullr X0 Y0 X1 Y1 {path}")
        occurring = set(names)
        for window in self.windows():
            values, valid = numbers(self._band, *window, self.path)
            occurring.update(map(int, distinct(values[valid])))
            if len(occurring) > MOST:
                raise UserError(
                    f"{path} has more than {MOST} different values, so it is not a map of classes: type class_map=MAP"
                )
        if not occurring:
            raise UserError(f"{path} has no valid pixel: type class_map=MAP with a map of classes")
        self.values = np.array(sorted(occurring), np.int64)
        plain = [names.get(v, str(v)) for v in self.values.tolist()]
        self.names = [n if plain.count(n) == 1 else f"{n} ({v})" for n, v in zip(plain, self.values, strict=True)]

    def windows(
        self, x: int = 0, y: int = 0, width: int | None = None, height: int | None = None
    ) -> Iterator[tuple[int, int, int, int]]:
        """The map, or an area of it from (x, y) on, as windows (x, y, w, h) of whole rows."""
        width, height = width or self.shape[1], height or self.shape[0]
        rows = max(1, self._block // width)
        for top in range(y, y + height, rows):
            yield x, top, width, min(rows, y + height - top)

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        """The classes (h, w) int64 of the window whose first pixel is column x, row y; -1 for nodata."""
        values, valid = numbers(self._band, x, y, w, h, self.path)
        return np.where(valid, np.searchsorted(self.values, np.where(valid, values, self.values[0])), -1)

    def part_of(self, x: int, y: int) -> tuple[float, ...]:
        """The geotransform of the part that begins at column x, row y."""
        return below(self.geotransform, x, y)

    def areas(self) -> tuple[np.ndarray, str]:
        """Each class's mapped area (K,) and its unit: "ha", or "pixels" where the map's CRS does not say how large they
        are.
        """
        areas = Areas(self.grid, len(self.values))
        for x, y, w, h in self.windows():
            areas.add(x, y, self.read(x, y, w, h))
        hectares = areas.hectares()
        if hectares is None or not np.isfinite(hectares).all():
            return areas.pixels.astype(np.float64), "pixels"
        return hectares, "ha"

    def class_of(self, value: Any, where: str) -> int:
        """The number of the class that a reference calls `value`.

        It is looked for by name: exactly, and then in any capitalisation and with `_`, `-` or spaces; or by number.

        Args:
            value: a name or a number.
            where: the value stands, for the message.

        Raises:
            UserError: for a class that the map does not have, naming the one most like it.
        """
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if text in self.names:
            return self.names.index(text)
        alike = [i for i, name in enumerate(self.names) if _fold(name) == _fold(text)]
        if len(alike) == 1:
            return alike[0]
        if re.fullmatch(r"[+-]?\d{1,15}(\.0*)?", text, re.ASCII) and int(float(text)) in self.values:
            return int(np.searchsorted(self.values, int(float(text))))
        close = nearest(text, self.names)
        listed = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
        text = text if len(text) <= 60 else f"{text[:60]}..."
        raise UserError(
            f"{where}: the class {text!r} is not in {self.path}, which has {listed}: "
            + (f"write {close!r} in the reference" if close else "rename it in the reference, or leave it out there")
        )


def empty_raster(scene: ClassMap, window: tuple[int, int, int, int], kind: int, projection: str) -> Any:
    """A raster of one band in memory, on a part of the map's grid.

    Args:
        scene: the map.
        window: (x, y, w, h) of the part.
        kind: GDAL's number of a pixel type.
        projection: WKT of the CRS.
    """
    gdal = import_gdal(scene.path)
    x, y, w, h = window
    raster = gdal.GetDriverByName("MEM").Create("", w, h, 1, kind)
    raster.SetGeoTransform(scene.part_of(x, y))
    raster.SetProjection(projection)
    return raster


def brought_onto(grid: Any, source: Any, path: str, key: str = "reference") -> None:
    """Puts a raster's values onto a grid by nearest neighbour; both are open datasets, `path` and `key` name the
    raster.

    Raises:
        UserError: where GDAL cannot.
    """
    gdal = import_gdal(path)
    with told(path, f"{key}= with another file"), quiet(gdal):
        gdal.Warp(grid, source, resampleAlg="near", errorThreshold=0)


def category_names(band: Any) -> dict[int, str]:
    """The names that a band has for some of its values."""
    band.GetDataset().GetGeoTransform()  # GDAL reads what a file's sidecar says no earlier than it has to
    return {value: name for value, name in enumerate(band.GetCategoryNames() or []) if name.strip()}


def numbers(band: Any, x: int, y: int, w: int, h: int, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """A window of a band as (h, w) int64, and where it is valid, (h, w) bool.

    Args:
        band: a gdal.Band.
        x: the first column.
        y: the first row.
        w: columns.
        h: rows.
        path: of the file that the band comes from, for messages.

    Raises:
        UserError: for fractions, and where the file cannot be read.
    """
    gdal = import_gdal(path)
    if band.DataType == gdal.GDT_Byte and type_of(gdal, band) == "Int8":
        raise UserError(f"{path} holds signed bytes, which this GDAL reads as unsigned: give classes as other numbers")
    with told(path, "the name of another file, or copy it again"), quiet(gdal):
        raw = np.frombuffer(band.ReadRaster(x, y, w, h, buf_type=gdal.GDT_Float64), np.float64).reshape(h, w)
        valid = np.isfinite(raw)
        if band.GetMaskFlags() != gdal.GMF_ALL_VALID:
            mask = band.GetMaskBand().ReadRaster(x, y, w, h, buf_type=gdal.GDT_Byte)
            valid &= np.frombuffer(mask, np.uint8).reshape(h, w) > 0
    with np.errstate(invalid="ignore"):  # beyond int64: told as fractions
        values = np.where(valid, raw, 0).astype(np.int64)
    if (values != raw)[valid].any():
        raise UserError(
            f"{path} holds fractions, so it is not a map of classes: type class_map=, reference= or dataset.labels= "
            "with one of whole numbers"
        )
    return values, valid


def distinct(values: np.ndarray) -> np.ndarray:
    """The different values, in rising order; without a sort for the small numbers that classes are."""
    if values.size and values.min() >= 0 and values.max() < 1 << 16:
        return np.flatnonzero(np.bincount(values))
    return np.unique(values)


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def open_dataset(path: str | os.PathLike[str], key: str, raster: bool = False, options: Sequence[str] = ()) -> Any:
    """A raster or vector file as GDAL opens it.

    Args:
        path: the file.
        key: that gave the path, for messages.
        raster: whether it has to be a raster.
        options: of GDAL's driver, NAME=VALUE.

    Raises:
        UserError: for a file that cannot be opened or holds nothing.
    """
    gdal = import_gdal(os.fspath(path))
    kinds = gdal.OF_RASTER if raster else gdal.OF_RASTER | gdal.OF_VECTOR
    try:
        dataset = open_gdal(path, kinds, options)
    except RAISED as error:
        reason = f"cannot be opened ({error})" if os.path.exists(path) else "does not exist"
        raise UserError(f"{key}={path} {reason}: type {key}=FILE") from error
    if dataset.RasterCount == 0 and (raster or dataset.GetLayerCount() == 0):
        lacking = "no raster band" if raster else "nothing to compare with"
        raise UserError(f"{key}={path} holds {lacking}: type {key}=FILE")
    return dataset
