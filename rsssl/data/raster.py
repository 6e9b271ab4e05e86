"""Reading one image, whatever its format. The only place that imports GDAL, and only when a file needs it.

Plain TIFFs are read by `geotiff`; where GDAL is installed, only those that are not compressed. All
others, and those it finds fault with, are left to GDAL.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data import geotiff
from rsssl.data.decoders import ANY, DRIVERS, FORMATS, PICTURES, RASTERS, TIFF, BadImage, refuse_large, safe_suffix
from rsssl.errors import UserError

INSTALL_GDAL = (
    "Install GDAL: type pip install 'rsssl[gdal]'"
    if sys.version_info >= (3, 12)  # for which PyPI has it with its library
    else "Install GDAL: on Debian or Ubuntu `apt-get install libgdal-dev python3-dev g++` and then `pip install "
    'setuptools wheel && pip install --no-build-isolation "gdal[numpy]==$(gdal-config --version)"`; with conda '
    "`conda install -c conda-forge gdal`"
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
# Pillow's modes of 8-bit pictures that are not RGB, and what they are called.
_CONVERTED = (
    dict.fromkeys(("1", "L", "LA", "La"), "grey")
    | dict.fromkeys(("P", "PA"), "palette")
    | dict.fromkeys(("RGBA", "RGBa"), "alpha")
    | dict.fromkeys(("RGBX", "YCbCr", "LAB", "HSV"), "other")
    | {"CMYK": "CMYK"}
)


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


def read(path: str | Path, bands: int | None = None, content: bytes | None = None) -> Raster:
    """Read an image: Pillow for JPEG, PNG, BMP, WebP and GIF, `geotiff` for plain TIFFs, GDAL for everything else.

    Args:
        path: the file, or the name of what is no file of this machine.
        bands: how many bands the caller expects; 3 turns 8-bit grey, palette, CMYK and RGBA pictures into RGB, 1 or
            None leaves grey pictures grey. Anything else is returned as it is: the caller compares.
        content: all of the file, where it lies in an archive or elsewhere than on this machine; None to open `path`.

    Of several pictures in one file (an animated GIF, a TIFF of many pages) the first is read.

    Raises:
        BadImage: for a file that is empty, damaged, too large or no image.
        UserError: when the file needs GDAL and GDAL is missing.
    """
    try:
        suffix = safe_suffix(path, content is None)
        if suffix in PICTURES:
            return _pillow(path, bands, content)
        return _tiff(os.fspath(path), content) if RASTERS.get(suffix) is TIFF else _gdal(path, content=content)
    except (UserError, BadImage):
        raise
    except Exception as error:  # decoders raise whatever they like at a damaged, huge or hostile file
        raise BadImage(path, _reason(path, content, error)) from error


def _head(path: str | Path, content: bytes | None, n: int) -> bytes:
    """The first n bytes of a file."""
    if content is not None:
        return content[:n]
    with open(path, "rb") as file:
        return file.read(n)


def _reason(path: str | Path, content: bytes | None, error: Exception) -> str:
    """Why a file could not be decoded, in a few words."""
    try:
        start = _head(path, content, 16)
    except OSError as unreadable:
        return f"cannot be read ({unreadable.strerror})"
    if not start:
        return "the file is empty (0 bytes)"
    if type(error).__name__ == "UnidentifiedImageError" or "not recognized as" in str(error):
        return f"not an image of the kind that its name says (it starts with {start!r})"
    return f"damaged or cut short ({error})"


def _pillow(path: str | Path, bands: int | None, content: bytes | None) -> Raster:
    from PIL import Image

    with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
        refuse_large(path, (3, image.height, image.width), 1)
        depth = _png_depth(_head(path, content, 26)) if image.format == "PNG" else 8
        if depth == 16 and image.mode not in ("I", "I;16", "I;16B"):
            return _gdal(
                path, ("PNG",), content=content
            )  # Pillow would cut 16-bit RGB down to 8 bits without a warning
        if depth == 16:
            return Raster(np.asarray(image)[None].astype(np.uint16))
        converted = _CONVERTED.get(image.mode, "")
        if converted == "grey" and bands != 3:
            return Raster(np.asarray(image.convert("L"))[None].copy())
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        return Raster(np.ascontiguousarray(pixels.transpose(2, 0, 1)), converted=converted)


def _png_depth(head: bytes) -> int:
    """Bits of a sample, from the file's header."""
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


def open_gdal(path: str | os.PathLike[str], kinds: int, options: Sequence[str] = ()) -> Any:
    """What a user named, as GDAL opens it.

    A file with one of the usual suffixes is opened by their drivers only; another file, and a name that is no file but
    that GDAL knows, as /vsizip/a.zip/b.tif, by all of them.

    Args:
        path: the file, or name.
        kinds: of data, gdal.OF_RASTER or others.
        options: of the driver, NAME=VALUE.

    Raises:
        RuntimeError: as GDAL puts it.
        UserError: for a pipe, and for a file whose overviews are said to lie elsewhere.
    """
    gdal, name = import_gdal(path), os.fspath(path)
    drivers: Sequence[str] = ()
    if os.path.exists(name):
        if not os.path.isfile(name) and not os.path.isdir(name):
            raise UserError(f"{name} is a pipe, a socket or a device: type the name of a file")
        name = os.path.abspath(name)  # GDAL takes GTIFF_DIR:1:a.tif and others for more than names of files
        drivers = DRIVERS.get(os.path.splitext(name)[1].lower(), ())
    with quiet(gdal):
        dataset = gdal.OpenEx(name, kinds, allowed_drivers=list(drivers), open_options=list(options))
        overviews = dataset.GetMetadataItem("OVERVIEW_FILE", "OVERVIEWS") or ""
    if "/" in overviews:  # may be an address
        raise UserError(f"{name} takes its overviews from {overviews}: remove the file that says so, {name}.aux.xml")
    return dataset


def _tiff(path: str, content: bytes | None) -> Raster:
    # GDAL prefers what these files say about nodata to what the TIFF itself says.
    sidecars = (path + ".aux.xml", path + ".aux", os.path.splitext(path)[0] + ".aux")
    alone = content is not None or not any(os.access(name, os.F_OK) for name in sidecars)
    if not alone and has_gdal():
        for sidecar in filter(os.path.exists, sidecars):
            safe_suffix(sidecar)
        return _gdal(path)
    try:
        try:
            image = geotiff.read(path, False, content)
        except geotiff.Unsupported:
            if has_gdal():  # looked for only now: it takes longer to import than hundreds of files to read
                raise
            image = geotiff.read(path, content=content)
    except geotiff.Unsupported:
        if not _head(path, content, 1):
            raise ValueError("empty") from None
        return _gdal(path, alone=alone, content=content)
    except Exception:
        if has_gdal():  # it may read the file all the same; if not, people can look up its error message
            return _gdal(path, alone=alone, content=content)
        raise
    return Raster(image.pixels, image.nodata, image.names)


def _gdal(path: str | Path, drivers: Sequence[str] = (), alone: bool = False, content: bytes | None = None) -> Raster:
    """Read an image with GDAL.

    Args:
        path: the file.
        drivers: that may open it; none: those of its suffix.
        alone: no file beside it says anything of it, so that the folder need not be listed.
        content: see `read`.
    """
    gdal, suffix = import_gdal(path), os.path.splitext(path)[1].lower()
    drivers = drivers or RASTERS.get(suffix, ANY)
    name = os.path.abspath(path) if content is None else f"/vsimem/{os.getpid()}-{threading.get_ident()}/image{suffix}"
    alone = alone or content is not None
    gdal.SetThreadLocalConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR" if alone else None)
    try:
        if content is not None:
            gdal.FileFromMemBuffer(name, content)
        with quiet(gdal):
            return _whole(path, gdal, gdal.OpenEx(name, gdal.OF_RASTER, allowed_drivers=list(drivers)))
    finally:
        if content is not None:
            gdal.Unlink(name)
        gdal.SetThreadLocalConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", None)


def _whole(path: str | Path, gdal: Any, source: Any) -> Raster:
    """All pixels of an open dataset, if its bands agree on what they are."""
    if source.RasterCount == 0:
        raise ValueError("it holds no raster band")
    bands = [source.GetRasterBand(i + 1) for i in range(source.RasterCount)]
    kinds, nodata = sorted({type_of(gdal, band) for band in bands}), [band.GetNoDataValue() for band in bands]
    if len(kinds) > 1:
        raise BadImage(
            path, f"its bands are {' and '.join(kinds)}: make them one type, gdal_translate -ot Float32 IN OUT"
        )
    if kinds[0] not in NUMPY_TYPES:
        raise BadImage(path, f"pixels of type {kinds[0]}; {', '.join(NUMPY_TYPES)} can be used")
    if len(values := sorted(set(map(str, nodata)))) > 1:
        raise BadImage(
            path, f"its bands have the nodata {' and '.join(values)}: make it one, gdal_edit.py -a_nodata 0 IN"
        )
    dtype, (bw, bh) = np.dtype(NUMPY_TYPES[kinds[0]]), bands[0].GetBlockSize()
    shape = len(bands), source.RasterYSize, source.RasterXSize
    refuse_large(path, (len(bands), max(shape[1], bh), max(shape[2], bw)), dtype.itemsize)  # a block is read whole
    pixels = np.frombuffer(source.ReadRaster(buf_type=bands[0].DataType), dtype)
    return Raster(pixels.reshape(shape), nodata[0], tuple(band.GetDescription() for band in bands))


def type_of(gdal: Any, band: Any) -> str:
    """GDAL's name of a band's type."""
    signed = (  # GDAL 3.7 has a type for it, and warns of the question
        int(gdal.VersionInfo()) < 3_070_000
        and band.DataType == gdal.GDT_Byte
        and band.GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") == "SIGNEDBYTE"
    )
    return "Int8" if signed else str(gdal.GetDataTypeName(band.DataType))  # GDAL before 3.7 has no type for these
