"""A small GeoTIFF writer and reader in numpy, so that the built-in demo and plain tiles work where GDAL is missing.

Writes classic TIFF 6.0: band-interleaved strips, deflate or raw, with the georeferencing tags of the GeoTIFF 1.1
standard (OGC 19-008r4) for one EPSG code, and GDAL's tags for band names and nodata. Reads what it writes, and more
generally strips or tiles, pixel- or band-interleaved, raw or deflate, with or without the horizontal predictor. For
small tiles it is several times quicker than GDAL, so plain files are read with it everywhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np

# TIFF tags, in groups of those that are read.
_IMAGE = WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
_STRIPS = STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR, FORMAT = 273, 277, 278, 279, 284, 317, 339
_TILES = TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
_PLACE = PIXEL_SCALE, TIE_POINT, GEO_KEYS, GDAL_METADATA, GDAL_NODATA = 33550, 33922, 34735, 42112, 42113
_READ = frozenset((*_IMAGE, *_STRIPS, *_TILES, *_PLACE))
EXTRA = 338  # written only
ASCII, SHORT, LONG, DOUBLE = 2, 3, 4, 12  # types of a tag's values
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "Q", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
_CODES = {(1, 8): "u1", (1, 16): "u2", (2, 16): "i2", (1, 32): "u4", (2, 32): "i4", (3, 32): "f4", (3, 64): "f8"}
_SAMPLE = {"u": 1, "i": 2, "f": 3}


class Unsupported(Exception):
    """A TIFF that this reader leaves to GDAL."""


class GeoTiff(NamedTuple):
    """What a TIFF holds.

    Args:
        pixels: (C, H, W) in the file's type.
        nodata: the value that means "nothing here".
        names: of the bands, "" where unnamed.
        geotransform: GDAL's (x0, dx, 0, y0, 0, dy).
        epsg: the code of the CRS.
    """

    pixels: np.ndarray
    nodata: float | None
    names: tuple[str, ...]
    geotransform: tuple[float, ...] | None
    epsg: int | None


def write(
    path: str | Path,
    array: np.ndarray,
    geotransform: Sequence[float] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    compress: str | None = "deflate",
) -> None:
    """Write a GeoTIFF.

    Args:
        path: the file.
        array: (C, H, W).
        geotransform: GDAL's (x0, dx, 0, y0, 0, dy), in units of the CRS; north up (dy is negative).
        crs: an EPSG code, as "EPSG:32632".
        nodata: a value that means "nothing here".
        band_names: one for each band.
        compress: "deflate", or None for none.

    Raises:
        Unsupported: for more than 4 GiB.
    """
    c, h, w = array.shape
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    rows = min(h, max(1, (1 << 18) // max(1, w * array.itemsize)))  # strips of about 256 KiB
    strips = [np.ascontiguousarray(array[b, y : y + rows]).tobytes() for b in range(c) for y in range(0, h, rows)]
    if compress not in ("deflate", None):
        raise ValueError(f"compress {compress!r} is neither 'deflate' nor None")
    strips = [zlib.compress(s, 1) for s in strips] if compress else strips
    sizes = [len(s) for s in strips]
    start = 8 + sum(sizes)
    if start >= 1 << 32:
        raise Unsupported("more than 4 GiB does not fit into a classic TIFF")
    rgb = c in (3, 4) and array.dtype == np.uint8
    tags: dict[int, tuple[int, Any]] = {
        WIDTH: (LONG, [w]),
        HEIGHT: (LONG, [h]),
        BITS: (SHORT, [array.itemsize * 8] * c),
        COMPRESSION: (SHORT, [8 if compress else 1]),
        PHOTOMETRIC: (SHORT, [2 if rgb else 1]),
        STRIP_OFFSETS: (LONG, np.cumsum([8, *sizes[:-1]], dtype=np.int64).tolist()),
        SAMPLES: (SHORT, [c]),
        ROWS: (LONG, [rows]),
        STRIP_BYTES: (LONG, sizes),
        PLANAR: (SHORT, [2 if c > 1 else 1]),
        FORMAT: (SHORT, [_SAMPLE[array.dtype.kind]] * c),
    }
    if (extra := c - (3 if rgb else 1)) > 0:
        tags[EXTRA] = (SHORT, [0] * extra)
    if nodata is not None:
        tags[GDAL_NODATA] = (ASCII, f"{nodata:.17g}".encode() + b"\0")
    tags |= _place(geotransform, crs)
    if band_names is not None:
        tags[GDAL_METADATA] = (ASCII, _descriptions(band_names))
    pad = start % 2
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, start + pad))
        file.writelines(strips)
        file.write(b"\0" * pad + _directory(tags, start + pad))


def _descriptions(band_names: Sequence[str]) -> bytes:
    """The bands' names as GDAL's XML, ending with a zero byte."""
    root = ElementTree.Element("GDALMetadata")
    for i, name in enumerate(band_names):
        ElementTree.SubElement(root, "Item", name="DESCRIPTION", sample=str(i), role="description").text = name
    return ElementTree.tostring(root) + b"\0"


def _place(geotransform: Sequence[float] | None, crs: str | None) -> dict[int, tuple[int, Any]]:
    """The tags that say where the pixels lie."""
    tags: dict[int, tuple[int, Any]] = {}
    if geotransform is not None:
        x0, dx, _, y0, _, dy = geotransform
        tags[PIXEL_SCALE] = (DOUBLE, [dx, -dy, 0.0])
        tags[TIE_POINT] = (DOUBLE, [0.0, 0.0, 0.0, x0, y0, 0.0])
    if crs is not None:
        epsg = int(crs.upper().removeprefix("EPSG:"))
        geographic = 4000 <= epsg < 5000
        keys = [(1024, 2 if geographic else 1), (1025, 1), (2048 if geographic else 3072, epsg)]
        tags[GEO_KEYS] = (SHORT, [1, 1, 0, len(keys), *[v for k, value in keys for v in (k, 0, 1, value)]])
    return tags


def _directory(tags: dict[int, tuple[int, Any]], start: int) -> bytes:
    """The image file directory at byte `start`, followed by the values that do not fit into its entries."""
    head, tail = struct.pack("<H", len(tags)), b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = values if kind == ASCII else struct.pack(f"<{len(values)}{_TYPES[kind]}", *values)
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack("<I", after + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        head += struct.pack("<HHI", tag, kind, len(values)) + field
    return head + struct.pack("<I", 0) + tail


def read(path: str | Path) -> GeoTiff:
    """Read the first image of a TIFF file.

    Raises:
        Unsupported: for what is left to GDAL.
        ValueError: for a damaged file.
        OSError: as `open` does.
    """
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise Unsupported("not a classic TIFF")
    order = "<" if data[:1] == b"I" else ">"
    try:
        tags = _tags(data, order)
        pixels = _pixels(data, order, tags)
    except (struct.error, zlib.error, KeyError, IndexError) as error:
        raise ValueError(f"damaged TIFF ({error})") from error
    transform = None
    if PIXEL_SCALE in tags and TIE_POINT in tags:
        (sx, sy, _), (i, j, _, x, y, _) = tags[PIXEL_SCALE][:3], tags[TIE_POINT][:6]
        transform = (x - i * sx, sx, 0.0, y + j * sy, 0.0, -sy)
    geo = tags.get(GEO_KEYS, ())
    codes = {geo[k]: geo[k + 3] for k in range(4, len(geo) - 3, 4) if geo[k + 1] == 0}
    nodata = float(tags[GDAL_NODATA]) if tags.get(GDAL_NODATA) else None
    return GeoTiff(pixels, nodata, _names(tags, len(pixels)), transform, codes.get(3072, codes.get(2048)))


def _tags(data: bytes, order: str) -> dict[int, Any]:
    """The values of the tags that are read: text, or a tuple of numbers."""
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, Any] = {}
    entries = struct.iter_unpack(order + "HHI4s", data[start + 2 : start + 2 + 12 * count])
    for tag, kind, n, field in entries:
        if tag not in _READ or kind not in _TYPES:
            continue
        layout = f"{order}{n}{_TYPES[kind]}"
        if struct.calcsize(layout) > 4:
            values = struct.unpack_from(layout, data, *struct.unpack(order + "I", field))
        else:
            values = struct.unpack_from(layout, field)
        tags[tag] = values[0].rstrip(b"\0").decode("utf-8", "replace") if kind == ASCII else values
    return tags


def _pixels(data: bytes, order: str, tags: dict[int, Any]) -> np.ndarray:
    """(C, H, W), put together from strips or tiles."""
    w, h, c = tags[WIDTH][0], tags[HEIGHT][0], tags.get(SAMPLES, (1,))[0]
    code = _CODES.get((*set(tags.get(FORMAT, (1,))), *set(tags.get(BITS, (1,)))))  # None where samples differ in type
    compression = tags.get(COMPRESSION, (1,))[0]
    predictor = tags.get(PREDICTOR, (1,))[0] if compression != 1 else 1  # raw samples are never differences
    if code is None:
        raise Unsupported("sample type")
    if compression not in (1, 8, 32946) or predictor not in (1, 2) or (predictor == 2 and code[0] == "f"):
        raise Unsupported(f"compression {compression}, predictor {predictor}")
    if tags.get(PHOTOMETRIC, (1,))[0] not in (1, 2) or tags.get(FILL_ORDER, (1,))[0] != 1:
        raise Unsupported("photometric interpretation, or order of bits")
    if tags.get(DESCRIPTION, "").startswith("ImageJ"):
        raise Unsupported("a stack whose other images are not in the directory")
    dtype = np.dtype(order + code)
    tiled = TILE_OFFSETS in tags
    bw = tags[TILE_WIDTH][0] if tiled else w
    bh = tags[TILE_HEIGHT][0] if tiled else min(h, tags.get(ROWS, (h,))[0])
    offsets, sizes = (tags[TILE_OFFSETS], tags[TILE_BYTES]) if tiled else (tags[STRIP_OFFSETS], tags[STRIP_BYTES])
    planes = c if tags.get(PLANAR, (1,))[0] == 2 else 1
    depth = c // planes  # samples stored together in one block
    if len(offsets) != planes * -(-h // bh) * -(-w // bw):
        raise ValueError("damaged TIFF (number of blocks)")
    if 0 in sizes:
        raise Unsupported("blocks that are not stored")
    if compression == 1 and not tiled and planes == 1 and _adjoin(offsets, sizes, bh * w * depth * dtype.itemsize):
        offsets, sizes, bh = offsets[:1], (sum(sizes),), h  # strips that lie in one piece are one strip
    out = np.empty((c, h, w), dtype.newbyteorder("="))
    corners = [(p, y, x) for p in range(planes) for y in range(0, h, bh) for x in range(0, w, bw)]
    for (plane, y, x), offset, size in zip(corners, offsets, sizes, strict=True):
        raw = data[offset : offset + size] if compression == 1 else zlib.decompress(data[offset : offset + size])
        rows, cols = min(bh, h - y), min(bw, w - x)
        stored = bh if tiled else rows
        if len(raw) < stored * bw * depth * dtype.itemsize:
            raise ValueError("damaged TIFF (a block is cut short)")
        block = np.frombuffer(raw, dtype, stored * bw * depth).reshape(stored, bw, depth)
        if predictor == 2:
            block = np.cumsum(block, axis=1, dtype=dtype.newbyteorder("="))
        out[plane * depth : (plane + 1) * depth, y : y + rows, x : x + cols] = block[:rows, :cols].transpose(2, 0, 1)
    return out


def _adjoin(offsets: Sequence[int], sizes: Sequence[int], whole: int) -> bool:
    """Whether blocks of `whole` bytes (the last may be shorter) follow each other without a gap."""
    ends = range(offsets[0], offsets[0] + whole * len(offsets), whole)
    return all(size == whole for size in sizes[:-1]) and tuple(offsets) == tuple(ends)


def _names(tags: dict[int, Any], n: int) -> tuple[str, ...]:
    """The names of n bands, from GDAL's XML."""
    names = [""] * n
    if "description" in (text := tags.get(GDAL_METADATA, "")):
        try:
            items = list(ElementTree.fromstring(text))
        except ElementTree.ParseError:
            items = []
        for item in items:
            band = item.get("sample", "")
            if item.get("role") == "description" and band.isdigit() and int(band) < n:
                names[int(band)] = unescape(item.text or "", {"&quot;": '"', "&apos;": "'"})  # GDAL escapes twice
    return tuple(names)
