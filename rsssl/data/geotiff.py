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

import numpy as np

# TIFF tags
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES = (
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
)
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, EXTRA, FORMAT = (
    284,
    317,
    322,
    323,
    324,
    325,
    338,
    339,
)
PIXEL_SCALE, TIE_POINT, GEO_KEYS, GDAL_METADATA, GDAL_NODATA = 33550, 33922, 34735, 42112, 42113
FILL_ORDER, DESCRIPTION = 266, 270
_READ = frozenset(
    (
        WIDTH,
        HEIGHT,
        BITS,
        COMPRESSION,
        PHOTOMETRIC,
        STRIP_OFFSETS,
        SAMPLES,
        ROWS,
        STRIP_BYTES,
        PLANAR,
        PREDICTOR,
        TILE_WIDTH,
        TILE_HEIGHT,
        TILE_OFFSETS,
        TILE_BYTES,
        FORMAT,
        PIXEL_SCALE,
        TIE_POINT,
        GEO_KEYS,
        GDAL_METADATA,
        GDAL_NODATA,
        FILL_ORDER,
        DESCRIPTION,
    )
)
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "Q", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
_SAMPLE = {"u": 1, "i": 2, "f": 3}


class Unsupported(Exception):
    """A TIFF that this reader leaves to GDAL."""


class GeoTiff(NamedTuple):
    """Pixels (C, H, W) in the file's type, nodata, band names ("" where unnamed), GDAL's geotransform, EPSG code."""

    pixels: np.ndarray
    nodata: float | None
    names: tuple[str, ...]
    geotransform: tuple[float, ...] | None
    epsg: int | None


def write(
    path: str | Path,
    array: np.ndarray,
    geotransform: Sequence[float] | None = None,
    epsg: int | None = None,
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    compress: str | None = "deflate",
) -> None:
    """Write `array` (C, H, W). `geotransform` is GDAL's (x0, dx, 0, y0, 0, dy), north up (dy negative)."""
    c, h, w = array.shape
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    rows = min(h, max(1, (1 << 18) // max(1, w * array.itemsize)))  # strips of about 256 KiB
    strips = [np.ascontiguousarray(array[b, y : y + rows]).tobytes() for b in range(c) for y in range(0, h, rows)]
    if compress == "deflate":
        strips = [zlib.compress(s, 1) for s in strips]
    elif compress is not None:
        raise ValueError(f"compress {compress!r} is neither 'deflate' nor None")
    sizes = [len(s) for s in strips]
    if 8 + sum(sizes) >= 1 << 32:
        raise Unsupported("more than 4 GiB does not fit into a classic TIFF")
    offsets = [8 + sum_ for sum_ in np.cumsum([0, *sizes[:-1]], dtype=np.int64).tolist()]
    rgb = c in (3, 4) and array.dtype == np.uint8
    tags: dict[int, tuple[int, Any]] = {
        WIDTH: (4, [w]),
        HEIGHT: (4, [h]),
        BITS: (3, [array.itemsize * 8] * c),
        COMPRESSION: (3, [8 if compress else 1]),
        PHOTOMETRIC: (3, [2 if rgb else 1]),
        STRIP_OFFSETS: (4, offsets),
        SAMPLES: (3, [c]),
        ROWS: (4, [rows]),
        STRIP_BYTES: (4, sizes),
        PLANAR: (3, [2 if c > 1 else 1]),
        FORMAT: (3, [_SAMPLE[array.dtype.kind]] * c),
    }
    if (extra := c - (3 if rgb else 1)) > 0:
        tags[EXTRA] = (3, [0] * extra)
    if geotransform is not None:
        x0, dx, _, y0, _, dy = geotransform
        tags[PIXEL_SCALE] = (12, [dx, -dy, 0.0])
        tags[TIE_POINT] = (12, [0.0, 0.0, 0.0, x0, y0, 0.0])
    if epsg is not None:
        geographic = 4000 <= epsg < 5000
        keys = [(1024, 2 if geographic else 1), (1025, 1), (2048 if geographic else 3072, epsg)]
        tags[GEO_KEYS] = (3, [1, 1, 0, len(keys), *[v for k, value in keys for v in (k, 0, 1, value)]])
    if band_names is not None:
        root = ElementTree.Element("GDALMetadata")
        for i, name in enumerate(band_names):
            ElementTree.SubElement(root, "Item", name="DESCRIPTION", sample=str(i), role="description").text = name
        tags[GDAL_METADATA] = (2, ElementTree.tostring(root) + b"\0")
    if nodata is not None:
        tags[GDAL_NODATA] = (2, f"{nodata:.17g}".encode() + b"\0")
    start = 8 + sum(sizes)
    pad = start % 2
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, start + pad))
        file.writelines(strips)
        file.write(b"\0" * pad + _directory(tags, start + pad))


def _directory(tags: dict[int, tuple[int, Any]], start: int) -> bytes:
    """The image file directory at byte `start`, followed by the values that do not fit into its entries."""
    head, tail = struct.pack("<H", len(tags)), b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = values if kind == 2 else struct.pack(f"<{len(values)}{_TYPES[kind]}", *values)
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack("<I", after + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        head += struct.pack("<HHI", tag, kind, len(values)) + field
    return head + struct.pack("<I", 0) + tail


def read(path: str | Path) -> GeoTiff:
    """Read the first image of a TIFF file.

    Raises Unsupported for what is left to GDAL, ValueError for a damaged file, OSError as `open` does.
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
    nodata = tags.get(GDAL_NODATA)
    return GeoTiff(
        pixels,
        float(nodata) if nodata else None,
        _names(tags, len(pixels)),
        transform,
        codes.get(3072, codes.get(2048)),
    )


def _tags(data: bytes, order: str) -> dict[int, Any]:
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
        tags[tag] = values[0].rstrip(b"\0").decode("utf-8", "replace") if kind == 2 else values
    return tags


def _pixels(data: bytes, order: str, tags: dict[int, Any]) -> np.ndarray:
    w, h, c = tags[WIDTH][0], tags[HEIGHT][0], tags.get(SAMPLES, (1,))[0]
    bits, kind = set(tags.get(BITS, (1,))), set(tags.get(FORMAT, (1,)))
    compression = tags.get(COMPRESSION, (1,))[0]
    predictor = tags.get(PREDICTOR, (1,))[0] if compression != 1 else 1  # raw samples are never differences
    known = {(1, 8): "u1", (1, 16): "u2", (2, 16): "i2", (1, 32): "u4", (2, 32): "i4", (3, 32): "f4", (3, 64): "f8"}
    if len(bits) > 1 or len(kind) > 1 or (code := known.get((next(iter(kind)), next(iter(bits))))) is None:
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
    names = [""] * n
    if "description" in (text := tags.get(GDAL_METADATA, "")):
        try:
            items = list(ElementTree.fromstring(text))
        except ElementTree.ParseError:
            items = []
        for item in items:
            band = item.get("sample", "")
            if item.get("role") == "description" and band.isdigit() and int(band) < n:
                names[int(band)] = _unescape(item.text or "")
    return tuple(names)


def _unescape(text: str) -> str:
    """GDAL escapes the text of its metadata twice, once more than XML does."""
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text
