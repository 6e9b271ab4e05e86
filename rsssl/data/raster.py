"""Reading one image, whatever its format. The only place that imports GDAL, and only when a file needs it.

Plain TIFFs are read by `geotiff`, which gives what GDAL gives at a third of its time for small tiles (GDAL goes through
its drivers and lists the folder for every file); all others, and those it finds fault with, are left to GDAL.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data import geotiff
from rsssl.errors import UserError

INSTALL_GDAL = (
    "Install GDAL: on Debian or Ubuntu `apt-get install gdal-bin libgdal-dev python3-dev g++` and then "
    "`pip install 'setuptools<81' wheel && pip install --no-build-isolation gdal==$(gdal-config --version)`; "
    "with conda `conda install -c conda-forge gdal`"
)
_PILLOW = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".gif"))
_TIFF = frozenset((".tif", ".tiff"))
_AS_RGB = frozenset(("1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"))


class BadImage(Exception):
    """One image that cannot be used: `path`, and the `reason` in a few words."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BadImage, (self.path, self.reason)


class Raster(NamedTuple):
    """pixels (C, H, W) in the file's own type; nodata as declared; band names ("" where unnamed).

    `converted` says what an 8-bit picture was before it became RGB ("grey", "palette", "CMYK", "alpha"), else "".
    """

    pixels: np.ndarray
    nodata: float | None = None
    names: tuple[str, ...] = ()
    converted: str = ""


def read(path: str | Path, bands: int | None = None) -> Raster:
    """Read an image: Pillow for JPEG, PNG, BMP, WebP and GIF, `geotiff` for plain TIFFs, GDAL for everything else.

    bands: how many bands the caller expects; 3 turns 8-bit grey, palette, CMYK and RGBA pictures into RGB, 1 or None
      leaves grey grey. Anything else is returned as it is: the caller compares.
    Raises BadImage for a file that is empty, damaged or no image; UserError when it needs GDAL and GDAL is missing.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix in _PILLOW:
            return _pillow(path, bands)
        return _tiff(os.fspath(path)) if suffix in _TIFF else _gdal(path)
    except (UserError, BadImage):
        raise
    except Exception as error:  # decoders raise whatever they like at a damaged, huge or hostile file
        raise BadImage(path, _explain(path, error)) from error


def _explain(path: str | Path, error: Exception) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as reason:
        return f"cannot be read ({reason.strerror})"
    if not start:
        return "the file is empty (0 bytes)"
    if type(error).__name__ == "UnidentifiedImageError" or "not recognized as" in str(error):
        return f"not an image, whatever its name says (it starts with {start!r})"
    return f"damaged or cut short ({error})"


def _pillow(path: str | Path, bands: int | None) -> Raster:
    from PIL import Image

    with Image.open(path) as image:
        depth = _png_depth(path) if image.format == "PNG" else 8
        if depth == 16 and image.mode not in ("I", "I;16", "I;16B"):
            return _gdal(path)  # Pillow would cut 16-bit RGB down to 8 bits without a word
        if image.mode in ("I", "I;16", "I;16B", "F"):
            grey = np.asarray(image)
            return Raster(grey[None].astype(np.float32 if image.mode == "F" else np.uint16))
        converted = ""
        if image.mode in _AS_RGB:
            converted = {
                "1": "grey",
                "L": "grey",
                "LA": "grey",
                "La": "grey",
                "P": "palette",
                "PA": "palette",
                "CMYK": "CMYK",
            }.get(image.mode, "alpha" if "A" in image.mode.upper() else "other")
        if converted == "grey" and bands != 3:
            return Raster(np.asarray(image.convert("L"))[None].copy())
        pixels = np.asarray(image.convert("RGB") if image.mode != "RGB" else image)
        return Raster(np.ascontiguousarray(pixels.transpose(2, 0, 1)), converted=converted)


def _png_depth(path: str | Path) -> int:
    with open(path, "rb") as file:
        head = file.read(26)
    return head[24] if len(head) > 24 and head[12:16] == b"IHDR" else 8


@functools.cache
def has_gdal() -> bool:
    """Whether GDAL's Python bindings can be imported."""
    try:
        import osgeo.gdal  # noqa: F401
    except ImportError:
        return False
    return True


def import_gdal(path: str | os.PathLike[str], module: str = "gdal") -> Any:
    """GDAL's bindings ("gdal", "ogr" or "osr"), their errors as exceptions; UserError naming `path` where they are missing."""
    try:
        found = importlib.import_module(f"osgeo.{module}")
    except ImportError:
        raise UserError(f"{path} can only be read with GDAL, which is not installed. {INSTALL_GDAL}") from None
    found.UseExceptions()
    return found


def _tiff(path: str) -> Raster:
    # What these files say of nodata, GDAL takes before what the TIFF says itself.
    sidecars = (path + ".aux.xml", path + ".aux", os.path.splitext(path)[0] + ".aux")
    if any(map(os.path.exists, sidecars)) and has_gdal():
        return _gdal(path)
    try:
        image = geotiff.read(path)
    except geotiff.Unsupported:
        if os.stat(path).st_size == 0:
            raise ValueError("empty") from None
        return _gdal(path)
    except Exception:
        if has_gdal():  # it may know better, and if not, what it says of the damage is what people can look up
            return _gdal(path)
        raise
    return Raster(image.pixels, image.nodata, image.names)


def _gdal(path: str | Path) -> Raster:
    gdal = import_gdal(path)
    gdal.PushErrorHandler("CPLQuietErrorHandler")  # errors arrive as exceptions; warnings about odd tags help nobody
    try:
        source = gdal.OpenEx(os.fspath(path), gdal.OF_RASTER)
        c, h, w = source.RasterCount, source.RasterYSize, source.RasterXSize
        if c == 0:
            raise ValueError("it holds no raster band")
        bands = [source.GetRasterBand(i + 1) for i in range(c)]
        codes = {
            gdal.GDT_Byte: "u1",
            gdal.GDT_UInt16: "u2",
            gdal.GDT_Int16: "i2",
            gdal.GDT_UInt32: "u4",
            gdal.GDT_Int32: "i4",
            gdal.GDT_Float32: "f4",
            gdal.GDT_Float64: "f8",
        }
        if bands[0].DataType not in codes:
            raise ValueError(f"pixels of type {gdal.GetDataTypeName(bands[0].DataType)}")
        pixels = np.frombuffer(source.ReadRaster(buf_type=bands[0].DataType), codes[bands[0].DataType])
        nodata = bands[0].GetNoDataValue()
        return Raster(pixels.reshape(c, h, w), nodata, tuple(b.GetDescription() for b in bands))
    finally:
        gdal.PopErrorHandler()


def write_geotiff(
    path: str | Path,
    array: np.ndarray,
    geotransform: Sequence[float] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    compress: str | None = "deflate",
) -> None:
    """Write (C, H, W) as a GeoTIFF. `crs` is "EPSG:32632" and the like (GDAL not needed), or WKT (GDAL needed).

    `geotransform` is GDAL's (x0, dx, 0, y0, 0, dy).
    """
    if crs is None or crs.upper().startswith("EPSG:"):
        epsg = int(crs[5:]) if crs else None
        geotiff.write(path, array, geotransform, epsg, nodata, band_names, compress)
        return
    gdal = import_gdal(path)
    kinds = {"uint8": gdal.GDT_Byte, "uint16": gdal.GDT_UInt16, "int16": gdal.GDT_Int16, "float32": gdal.GDT_Float32}
    options = [f"COMPRESS={compress.upper()}"] if compress else []
    target = gdal.GetDriverByName("GTiff").Create(
        os.fspath(path), array.shape[2], array.shape[1], array.shape[0], kinds[str(array.dtype)], options
    )
    target.SetProjection(crs)
    if geotransform is not None:
        target.SetGeoTransform(list(geotransform))
    target.WriteRaster(0, 0, array.shape[2], array.shape[1], np.ascontiguousarray(array).tobytes())
    for i in range(array.shape[0]):
        if nodata is not None:
            target.GetRasterBand(i + 1).SetNoDataValue(nodata)
        if band_names is not None:
            target.GetRasterBand(i + 1).SetDescription(band_names[i])
    target.FlushCache()
