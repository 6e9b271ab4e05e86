"""A georeferenced raster as a classifier needs it: bands chosen and checked against the sensor card, read window by window."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.errors import UserError
from rsssl.geo.bands import COLOURS, choose, names_of
from rsssl.geo.product import Grid
from rsssl.models.card import SensorCard

log = logging.getLogger(__name__)

CACHE = 256 << 20  # bytes of blocks that GDAL may keep; its own default is a twentieth of the machine's memory
THIN = 2048  # pixels a side of a scene that is looked at whole
SAMPLES, SAMPLE = 10, 128  # the values are looked at in 10 x 10 places of so many pixels
FAR, CLIPPED = (
    5.0,
    0.5,
)  # a band does not fit when its mean is that many stds off, or that share lies outside the valid range


class Window(NamedTuple):
    """A part of a scene: values (C, h, w) in the card's stored units, as the file has them or float32; missing (C, h, w) and
    outside (h, w), or None."""

    values: np.ndarray
    missing: np.ndarray | None
    outside: np.ndarray | None


class Scene:
    """A raster that fits a sensor card, or is made to.

    A pixel is outside (nodata in a map) where the dataset's mask or alpha band says so, or where every chosen band is nodata or
    NaN; a band that alone is nodata counts as missing, as it does in training.

    Args:
        path: anything GDAL opens. card: what the classifier was trained on.
        bands: for each band of the card the scene's band, by number (from 1) or name; None: by name where the names say it, in
          order where there are none and the numbers agree.
        nodata: a value that means "nothing here", beside what the file declares.
        adapt: None refuses what does not fit; "cast" takes another type's numbers as they are; "moments" shifts and scales each
          band to the card's mean and standard deviation.

    Raises:
        UserError: when the file cannot be opened or does not fit, with the difference and what to type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        card: SensorCard,
        bands: Sequence[Any] | None = None,
        nodata: float | None = None,
        adapt: str | None = None,
    ) -> None:
        gdal = import_gdal(path)
        gdal.SetCacheMax(CACHE)
        self.path, self.card = os.fspath(path), card
        self.name = Path(path).name
        gdal.PushErrorHandler("CPLQuietErrorHandler")
        try:
            self._dataset = gdal.Open(os.fspath(path))
        except RuntimeError as error:
            raise UserError(f"{path} cannot be opened as a raster ({error}): type scene=FILE") from error
        finally:
            gdal.PopErrorHandler()
        if self._dataset.RasterCount == 0:
            raise UserError(
                f"{path} holds no raster band: type scene=FILE with one of its parts, as gdalinfo lists them"
            )
        self.grid = Grid.of(self._dataset)
        self.names = names_of(gdal, self._dataset)
        self.bands = choose(self.names, card, bands, path)
        self._bands = [self._dataset.GetRasterBand(b) for b in self.bands]
        self.dtype = {
            "Byte": "uint8",
            "UInt16": "uint16",
            "Int16": "int16",
            "Float32": "float32",
            "Float64": "float32",
        }.get(gdal.GetDataTypeName(self._bands[0].DataType), gdal.GetDataTypeName(self._bands[0].DataType).lower())
        if any(band.DataType != self._bands[0].DataType for band in self._bands):
            raise UserError(
                f"{path}: its bands are of different types: make them one, gdal_translate -ot UInt16 IN OUT"
            )
        self._type, self._numpy = _transfer(gdal, self._bands[0].DataType, path)
        own = card.nodata if adapt != "moments" else None  # in the training it meant nothing either
        self.nodata = [[v for v in {band.GetNoDataValue(), nodata, own} if v is not None] for band in self._bands]
        plain = (gdal.GMF_ALL_VALID, gdal.GMF_NODATA)
        self._mask = self._bands[0].GetMaskBand() if self._bands[0].GetMaskFlags() not in plain else None
        self._gain: np.ndarray | None = None
        self.adapted = adapt
        self._fit(adapt)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.grid.height, self.grid.width

    def read(self, y: int, x: int, h: int, w: int) -> Window:
        """Rows y..y+h, columns x..x+w, which may reach beyond the scene: there it is mirrored, and outside."""
        rows, cols = _mirror(y, h, self.grid.height), _mirror(x, w, self.grid.width)
        y0, x0 = int(rows.min()), int(cols.min())
        n_rows, n_cols = int(rows.max()) - y0 + 1, int(cols.max()) - x0 + 1
        raw, missing, outside = self._raw(y0, x0, n_rows, n_cols)
        if n_rows != h or n_cols != w:
            iy, ix = (rows - y0)[:, None], (cols - x0)[None, :]
            raw = raw[:, iy, ix]
            missing = None if missing is None else missing[:, iy, ix]
            beyond = (
                ~((np.arange(y, y + h) < self.grid.height) & (np.arange(y, y + h) >= 0))[:, None]
                | ~((np.arange(x, x + w) < self.grid.width) & (np.arange(x, x + w) >= 0))[None]
            )
            outside = beyond if outside is None else beyond | outside[iy, ix]
        if self._gain is not None:
            raw = raw.astype(np.float32) * self._gain + self._offset
        return Window(raw.astype(np.float32) if raw.dtype == np.float64 else raw, missing, outside)

    def _raw(self, y: int, x: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Values in the file's type, and where they are missing or outside."""
        return self._read((x, y, w, h), h, w)

    def _read(
        self, part: tuple[int, int, int, int], h: int, w: int
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The same of a part (x, y, width, height), thinned out to h x w."""
        gdal = import_gdal(self.path)
        gdal.PushErrorHandler(
            "CPLQuietErrorHandler"
        )  # a handler is a thread's own, and blocks are read ahead in another
        try:
            data = self._dataset.ReadRaster(*part, w, h, buf_type=self._type, band_list=self.bands)
            covered = self._mask.ReadRaster(*part, w, h) if self._mask is not None else b""
        except RuntimeError as error:
            where = f"row {part[1]}, column {part[0]}"
            raise UserError(f"{self.path} cannot be read at {where} ({error}): copy the file again") from error
        finally:
            gdal.PopErrorHandler()
        raw = np.frombuffer(data, self._numpy).reshape(len(self.bands), h, w)
        missing = ~np.isfinite(raw) if raw.dtype.kind == "f" else None
        for i, values in enumerate(self.nodata):
            for value in values:
                equal = _equal(raw[i], value)
                if equal is not None and equal.any():
                    missing = np.zeros(raw.shape, bool) if missing is None else missing
                    missing[i] |= equal
        missing = None if missing is None or not missing.any() else missing
        outside = None if missing is None else missing.all(0)
        if self._mask is not None:
            mask = np.frombuffer(covered, np.uint8).reshape(h, w) == 0
            outside = mask if outside is None else outside | mask
        return raw, missing, outside if outside is not None and outside.any() else None

    def _fit(self, adapt: str | None) -> None:
        """Compares the scene with the card; sets what `adapt` asks for."""
        card = self.card
        moments = self._moments()
        if adapt is None and self.dtype != card.dtype:
            raise UserError(
                f"{self.path} holds {self.dtype}, the classifier was trained on {card.dtype} ({card.name}). If the numbers mean "
                "the same, type adapt=cast; to shift and scale each band to what the classifier has seen, type adapt=moments"
            )
        low, high = np.array(card.low), np.array(card.high)
        centre, spread = low + np.array(card.mean) * (high - low), np.array(card.std) * (high - low)
        mean, std, clipped = moments
        if adapt == "moments":
            gain = np.where(std > 0, spread / np.where(std > 0, std, 1), 1.0)
            mean = np.where(np.isnan(mean), centre, mean)  # a band of nothing but nodata
            self._gain = gain.astype(np.float32)[:, None, None]
            self._offset = (centre - mean * gain).astype(np.float32)[:, None, None]
            return
        off = (np.abs(mean - centre) > FAR * spread) | (clipped > CLIPPED)  # False for NaN: nothing to judge by
        if off.any():
            lines = [
                f"  {card.bands[b]}: the scene's mean is {mean[b]:.6g}, the training's {centre[b]:.6g} +- {spread[b]:.3g}; "
                f"{100 * clipped[b]:.0f} % lies outside {low[b]:g}..{high[b]:g}"
                for b in np.flatnonzero(off)
            ]
            raise UserError(
                f"the values of {self.path} are not those the classifier was trained on ({card.name}):\n"
                + "\n".join(lines)
                + "\nChoose other bands with bands=[...], or type adapt=moments to shift and scale each band"
            )

    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per band: mean, std, and the share of valid pixels outside the card's range; NaN for a band without valid pixels.

        In places spread over the scene; where these have none, in the whole of it, thinned out.
        """
        h, w = self.size
        side = min(SAMPLE, h), min(SAMPLE, w)
        ys, xs = (np.unique(np.linspace(0, n - s, SAMPLES).astype(int)) for n, s in zip((h, w), side, strict=True))
        sums = np.zeros((4, len(self.bands)))
        for y in ys.tolist():
            for x in xs.tolist():
                sums += self._sums(*self._raw(y, x, *side))
        if (sums[0] == 0).any():
            sums = self._sums(*self._read((0, 0, w, h), min(h, THIN), min(w, THIN)))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums[1] / sums[0]
            return mean, np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0)), sums[3] / sums[0]

    def _sums(self, raw: np.ndarray, missing: np.ndarray | None, outside: np.ndarray | None) -> np.ndarray:
        """(4, C): valid pixels, their sum, that of their squares, and how many lie outside the card's range."""
        low, high = (np.array(v)[:, None] for v in (self.card.low, self.card.high))
        good = np.ones(raw.shape, bool) if missing is None else ~missing
        if outside is not None:
            good &= ~outside
        values, good = raw.reshape(len(raw), -1).astype(np.float64), good.reshape(len(raw), -1)
        values = np.where(good, values, 0)
        beyond = ((values < low) | (values > high)) & good
        return np.array([good.sum(1), values.sum(1), (values**2).sum(1), beyond.sum(1)], np.float64)

    def files(self) -> list[Path]:
        """The files that GDAL reads."""
        return [file for name in self._dataset.GetFileList() or [] if (file := Path(name)).is_file()]

    def fingerprint(self) -> list[list[Any]]:
        """The files with their sizes and times: a change of it means another scene. What viewers leave beside does not count."""
        stats = [(file, file.stat()) for file in self.files() if not file.name.endswith(".aux.xml")]
        path = str(Path(self.path).resolve()) if Path(self.path).exists() else self.path
        return [[path, *self.size], *([f.name, s.st_size, s.st_mtime_ns] for f, s in stats)]

    def thumbnail(self, shape: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8: the first three bands named red, green and blue, or the first ones, each between its 2nd and 98th
        percentile; outside is white."""
        raw, missing, outside = self._read((0, 0, self.grid.width, self.grid.height), *shape)
        lower = [band.lower() for band in self.card.bands]
        named = next((n for n in (COLOURS, ("b04", "b03", "b02")) if set(n) <= set(lower)), None)
        shown = [lower.index(n) for n in named] if named else [min(i, len(lower) - 1) for i in range(3)]
        hidden = np.zeros(shape, bool) if outside is None else outside
        out = np.full((*shape, 3), 255, np.uint8)
        for channel, i in enumerate(shown):
            seen = ~hidden if missing is None else ~hidden & ~missing[i]
            plane = np.where(seen, raw[i], 0).astype(np.float64)
            low, high = np.percentile(plane[seen], (2, 98)) if seen.any() else (0.0, 1.0)
            out[..., channel] = np.clip((plane - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
        out[hidden] = 255
        return out

    def metres(self) -> float | None:
        """Metres a pixel (the root of its area), None where the scene does not say."""
        if self.grid.geotransform is None or not self.grid.projection:
            return None
        t = self.grid.geotransform
        reference = import_gdal(self.path, "osr").SpatialReference()
        reference.ImportFromWkt(self.grid.projection)
        area = abs(t[1] * t[5] - t[2] * t[4])
        if reference.IsGeographic():
            middle = t[3] + t[4] * self.grid.width / 2 + t[5] * self.grid.height / 2
            return math.sqrt(area * 111_320.0**2 * math.cos(math.radians(middle)))
        return math.sqrt(area) * reference.GetLinearUnits()


def _transfer(gdal: Any, kind: int, path: str | os.PathLike[str]) -> tuple[int, str]:
    """As what a band's pixels are read: GDAL's type and numpy's."""
    known = {gdal.GDT_Byte: "u1", gdal.GDT_UInt16: "u2", gdal.GDT_Int16: "i2", gdal.GDT_Float32: "f4"}
    if kind in known:
        return kind, known[kind]
    if kind in (gdal.GDT_UInt32, gdal.GDT_Int32, gdal.GDT_Float64):
        return gdal.GDT_Float64, "f8"
    raise UserError(
        f"{path} holds pixels of type {gdal.GetDataTypeName(kind)}: convert it, gdal_translate -ot Float32 IN OUT"
    )


def _equal(raw: np.ndarray, value: float) -> np.ndarray | None:
    """Where the pixels are `value`; None for one that their type cannot hold."""
    if raw.dtype.kind == "f":
        return raw == raw.dtype.type(value)
    info = np.iinfo(raw.dtype)
    return raw == raw.dtype.type(value) if float(value).is_integer() and info.min <= value <= info.max else None


def _mirror(start: int, n: int, size: int) -> np.ndarray:
    """Positions start..start+n of a line of `size` pixels that goes on mirrored at both ends."""
    at = np.arange(start, start + n) % (2 * size)
    return np.where(at < size, at, 2 * size - 1 - at)
