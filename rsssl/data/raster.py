"""Reading one image, whatever its format. The only place that imports GDAL, and only when a file needs it.

Plain TIFFs are read by `geotiff`, which gives what GDAL gives at a third of its time for small tiles (GDAL goes through
its drivers and lists the folder for every file); all others, and those it finds fault with, are left to GDAL.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
NUMPY_TYPES = {  # of the pixel types that GDAL names so
    "Byte": "uint8",
    "UInt16": "uint16",
    "Int16": "int16",
    "UInt32": "uint32",
    "Int32": "int32",
    "Float32": "float32",
    "Float64": "float64",
}
write_geotiff = geotiff.write
PICTURES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".gif"))  # read by Pillow
_TIFF = frozenset((".tif", ".tiff"))
# Pillow's modes of 8-bit pictures that are not RGB, and what they are called.
_CONVERTED = (
    dict.fromkeys(("1", "L", "LA", "La"), "grey")
    | dict.fromkeys(("P", "PA"), "palette")
    | dict.fromkeys(("RGBA", "RGBa"), "alpha")
    | dict.fromkeys(("RGBX", "YCbCr", "LAB", "HSV"), "other")
    | {"CMYK": "CMYK"}
)


class BadImage(Exception):
    """One image that cannot be used.

    Args:
        path: of the image.
        reason: in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BadImage, (self.path, self.reason)


class Raster(NamedTuple):
    """One image as its file holds it.

    Args:
        pixels: (C, H, W) in the file's own type.
        nodata: the value that the file declares to mean "nothing here".
        names: of the bands, "" where unnamed.
        converted: what an 8-bit picture was before it became RGB ("grey", "palette", "CMYK", "alpha", "other"), else
            "".
    """

    pixels: np.ndarray
    nodata: float | None = None
    names: tuple[str, ...] = ()
    converted: str = ""


def read(path: str | Path, bands: int | None = None) -> Raster:
    """Read an image: Pillow for JPEG, PNG, BMP, WebP and GIF, `geotiff` for plain TIFFs, GDAL for everything else.

    Args:
        path: the file.
        bands: how many bands the caller expects; 3 turns 8-bit grey, palette, CMYK and RGBA pictures into RGB, 1 or
            None leaves grey pictures grey. Anything else is returned as it is: the caller compares.

    Raises:
        BadImage: for a file that is empty, damaged or no image.
        UserError: when the file needs GDAL and GDAL is missing.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix in PICTURES:
            return _pillow(path, bands)
        return _tiff(os.fspath(path)) if suffix in _TIFF else _gdal(path)
    except (UserError, BadImage):
        raise
    except Exception as error:  # decoders raise whatever they like at a damaged, huge or hostile file
        raise BadImage(path, _reason(path, error)) from error


def _reason(path: str | Path, error: Exception) -> str:
    """Why a file could not be decoded, in a few words."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as unreadable:
        return f"cannot be read ({unreadable.strerror})"
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
            return _gdal(path)  # Pillow would cut 16-bit RGB down to 8 bits without a warning
        if image.mode in ("I", "I;16", "I;16B", "F"):
            return Raster(np.asarray(image)[None].astype(np.float32 if image.mode == "F" else np.uint16))
        converted = _CONVERTED.get(image.mode, "")
        if converted == "grey" and bands != 3:
            return Raster(np.asarray(image.convert("L"))[None].copy())
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        return Raster(np.ascontiguousarray(pixels.transpose(2, 0, 1)), converted=converted)


def _png_depth(path: str | Path) -> int:
    """Bits of a sample, from the file's header."""
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
    """GDAL's bindings, which then report errors as exceptions.

    Args:
        path: the file that they are needed for.
        module: "gdal", "ogr" or "osr".

    Raises:
        UserError: where they are missing, naming `path`.
    """
    try:
        bindings = importlib.import_module(f"osgeo.{module}")
    except ImportError:
        raise UserError(f"{path} can only be read with GDAL, which is not installed. {INSTALL_GDAL}") from None
    bindings.UseExceptions()
    return bindings


@contextmanager
def quiet(gdal: Any) -> Iterator[None]:
    """Within it GDAL prints nothing: its errors arrive as exceptions, and warnings about unusual tags help nobody."""
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        yield
    finally:
        gdal.PopErrorHandler()


def gdal_type(gdal: Any, dtype: np.dtype) -> int:
    """GDAL's number of a numpy type."""
    return int(gdal.GetDataTypeByName(next(name for name, known in NUMPY_TYPES.items() if known == dtype.name)))


def _tiff(path: str) -> Raster:
    # GDAL prefers what these files say about nodata to what the TIFF itself says.
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
        if has_gdal():  # it may read the file all the same; if not, people can look up its error message
            return _gdal(path)
        raise
    return Raster(image.pixels, image.nodata, image.names)


def _gdal(path: str | Path) -> Raster:
    gdal = import_gdal(path)
    with quiet(gdal):
        source = gdal.OpenEx(os.fspath(path), gdal.OF_RASTER)
        if source.RasterCount == 0:
            raise ValueError("it holds no raster band")
        bands = [source.GetRasterBand(i + 1) for i in range(source.RasterCount)]
        kind = gdal.GetDataTypeName(bands[0].DataType)
        if kind not in NUMPY_TYPES:
            raise ValueError(f"pixels of type {kind}")
        pixels = np.frombuffer(source.ReadRaster(buf_type=bands[0].DataType), NUMPY_TYPES[kind])
        shape = len(bands), source.RasterYSize, source.RasterXSize
        return Raster(pixels.reshape(shape), bands[0].GetNoDataValue(), tuple(b.GetDescription() for b in bands))
