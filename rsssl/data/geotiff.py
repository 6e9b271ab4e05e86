"""A small GeoTIFF writer and reader in numpy, so that the built-in demo and plain tiles work where GDAL is missing.

Writes classic TIFF 6.0: band-interleaved strips, deflate or raw, with the georeferencing tags of the GeoTIFF 1.1
standard (OGC 19-008r4) for one EPSG code, and GDAL's tags for band names and nodata. Reads what it writes, and more
generally strips or tiles, pixel- or band-interleaved, raw or deflate, with or without the horizontal predictor.

Measured in microseconds of a file, against GDAL 3.6 with one driver and without its look into the folder: 64 px of 13
bands raw 54 against 208, 256 px of 3 bands raw 105 against 150, so raw files are read with it everywhere; deflated 541
against 440 and 1170 against 653, and with differences 554 against 376, so where GDAL is installed these are left to it.

The reader gives what GDAL gives, or nothing: a file is `Unsupported` as soon as it has a tag that is not known here, a
number that is not the one that the image's size demands, or needs more memory than a tile.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from rsssl.data import tiff_tags as tag
from rsssl.data.tiff_tags import TYPES, Tags, Unsupported, names_of, nodata_of

MOST = 80_000_000  # bytes of a tile's pixels, as 5000 x 5000 of three bytes, or 1750 x 1750 of 13 bands of two bytes
_BLOCK = 1 << 24  # bytes of a compressed strip or tile, and
_BLOCKS = 1 << 16  # of strips, tiles or samples: a tile with more is left to GDAL
_RATIO = 1032  # bytes that deflate makes of one, at most
_CODES = {
    (1, 8): "u1",
    (1, 16): "u2",
    (2, 16): "i2",
    (1, 32): "u4",
    (2, 32): "i4",
    (3, 32): "f4",
    (3, 64): "f8",
}
_SAMPLE = {"u": 1, "i": 2, "f": 3}


class GeoTiff(NamedTuple):
    """What a TIFF holds.

    Args:
        pixels: (C, H, W) in the file's type.
        nodata: the value that means "nothing here".
        names: of the bands, "" where unnamed.
    """

    pixels: np.ndarray
    nodata: float | None
    names: tuple[str, ...]


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
        tag.WIDTH: (tag.LONG, [w]),
        tag.HEIGHT: (tag.LONG, [h]),
        tag.BITS: (tag.SHORT, [array.itemsize * 8] * c),
        tag.COMPRESSION: (tag.SHORT, [8 if compress else 1]),
        tag.PHOTOMETRIC: (tag.SHORT, [2 if rgb else 1]),
        tag.STRIP_OFFSETS: (tag.LONG, np.cumsum([8, *sizes[:-1]], dtype=np.int64).tolist()),
        tag.SAMPLES: (tag.SHORT, [c]),
        tag.ROWS: (tag.LONG, [rows]),
        tag.STRIP_BYTES: (tag.LONG, sizes),
        tag.PLANAR: (tag.SHORT, [2 if c > 1 else 1]),
        tag.FORMAT: (tag.SHORT, [_SAMPLE[array.dtype.kind]] * c),
    }
    if (extra := c - (3 if rgb else 1)) > 0:
        tags[tag.EXTRA] = (tag.SHORT, [0] * extra)
    if nodata is not None:
        tags[tag.GDAL_NODATA] = (tag.ASCII, f"{nodata:.17g}".encode() + b"\0")
    tags |= _place(geotransform, crs)
    if band_names is not None:
        tags[tag.GDAL_METADATA] = (tag.ASCII, _descriptions(band_names))
    pad = start % 2
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, start + pad))
        file.writelines(strips)
        file.write(b"\0" * pad + _directory(tags, start + pad))


def _descriptions(band_names: Sequence[str]) -> bytes:
    """The bands' names as GDAL's XML, escaped twice as GDAL does, ending with a zero byte."""
    root = ElementTree.Element("GDALMetadata")
    for i, name in enumerate(band_names):
        item = ElementTree.SubElement(root, "Item", name="DESCRIPTION", sample=str(i), role="description")
        item.text = escape(name, quote=False)
    return ElementTree.tostring(root) + b"\0"


def _place(geotransform: Sequence[float] | None, crs: str | None) -> dict[int, tuple[int, Any]]:
    """The tags that say where the pixels lie."""
    tags: dict[int, tuple[int, Any]] = {}
    if geotransform is not None:
        x0, dx, _, y0, _, dy = geotransform
        tags[tag.PIXEL_SCALE] = (tag.DOUBLE, [dx, -dy, 0.0])
        tags[tag.TIE_POINT] = (tag.DOUBLE, [0.0, 0.0, 0.0, x0, y0, 0.0])
    if crs is not None:
        epsg = int(crs.upper().removeprefix("EPSG:"))
        geographic = 4000 <= epsg < 5000
        keys = [(1024, 2 if geographic else 1), (1025, 1), (2048 if geographic else 3072, epsg)]
        tags[tag.GEO_KEYS] = (tag.SHORT, [1, 1, 0, len(keys), *[v for k, value in keys for v in (k, 0, 1, value)]])
    return tags


def _directory(tags: dict[int, tuple[int, Any]], start: int) -> bytes:
    """The image file directory at byte `start`, followed by the values that do not fit into its entries."""
    head, tail = struct.pack("<H", len(tags)), b""
    after = start + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        data = values if kind == tag.ASCII else struct.pack(f"<{len(values)}{TYPES[kind]}", *values)
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack("<I", after + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        head += struct.pack("<HHI", number, kind, len(values)) + field
    return head + struct.pack("<I", 0) + tail


def read(path: str | Path, compressed: bool = True, content: bytes | None = None) -> GeoTiff:
    """Read the first image of a TIFF file.

    Args:
        path: the file.
        compressed: whether compressed files are read too.
        content: all of the file, where it need not be opened.

    Raises:
        Unsupported: for what is left to GDAL.
        ValueError: for a damaged file.
        OSError: as `open` does.
    """
    data = _content(path) if content is None else content
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise Unsupported("not a classic TIFF")
    try:
        tags = Tags(data)
        pixels, nodata = _pixels(tags, compressed), nodata_of(tags.text(tag.GDAL_NODATA))
        return GeoTiff(pixels, nodata, names_of(tags.text(tag.GDAL_METADATA), len(pixels)))
    except (struct.error, zlib.error) as error:
        raise ValueError(f"damaged TIFF ({error})") from error


def _content(path: str | Path) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        if (size := os.fstat(file).st_size) > 2 * MOST:
            raise Unsupported("a large file")
        return os.read(file, size)
    finally:
        os.close(file)


def _pixels(tags: Tags, compressed: bool) -> np.ndarray:
    """(C, H, W), put together from strips or tiles."""
    w, h, c = tags.number(tag.WIDTH), tags.number(tag.HEIGHT), tags.number(tag.SAMPLES, 1)
    compression = tags.number(tag.COMPRESSION)
    predictor = tags.number(tag.PREDICTOR, 1) if compression != 1 else 1  # raw samples are never differences
    if compression not in ((1, 8, 32946) if compressed else (1,)) or predictor not in (1, 2):
        raise Unsupported(f"compression {compression}, predictor {predictor}")
    dtype = np.dtype(tags.order + _sample_type(tags, c))
    if predictor == 2 and dtype.kind == "f":
        raise Unsupported("differences of floats")
    extra = c - {1: 1, 2: 3}.get(tags.number(tag.PHOTOMETRIC), c + 1)  # samples that are no grey and no colour
    if extra < 0 or (tag.EXTRA in tags and max(tags.numbers(tag.EXTRA, extra), default=3) > 2):
        raise Unsupported("photometric interpretation")
    planes = {1: 1, 2: c}.get(tags.number(tag.PLANAR, 1), 0)
    if tags.number(tag.FILL_ORDER, 1) != 1 or not planes:
        raise Unsupported("order of bits, or of samples")
    if "ImageJ" in tags.text(tag.DESCRIPTION):
        raise Unsupported("a stack whose other images are not in the directory")
    size = w * h * c * dtype.itemsize
    if not 0 < size <= min(MOST, len(tags.data) * (1 if compression == 1 else _RATIO)):
        raise Unsupported("more pixels than a tile has, or than the file can hold")
    bh, bw, offsets, sizes = _blocks(tags, h, w, planes)
    depth = c // planes  # samples stored together in one block
    tiled, cell = tag.TILE_OFFSETS in tags, depth * dtype.itemsize
    if compression == 1 and not tiled and planes == 1 and _adjoin(offsets, sizes, bh * w * cell):
        offsets, sizes, bh = offsets[:1], (sum(sizes),), h  # strips that lie in one piece are one strip
    out = np.empty((c, h, w), dtype.newbyteorder("="))
    corners = [(p, y, x) for p in range(planes) for y in range(0, h, bh) for x in range(0, w, bw)]
    for (plane, y, x), offset, stored in zip(corners, offsets, sizes, strict=True):
        rows, cols = min(bh, h - y), min(bw, w - x)
        shape = (bh if tiled else rows), bw, depth
        raw = _unpacked(tags.data, offset, stored, shape[0] * bw * cell, compression)
        block = np.frombuffer(raw, dtype).reshape(shape)
        if predictor == 2:
            block = np.cumsum(block, axis=1, dtype=dtype.newbyteorder("="))
        out[plane * depth : (plane + 1) * depth, y : y + rows, x : x + cols] = block[:rows, :cols].transpose(2, 0, 1)
    return out


def _sample_type(tags: Tags, samples: int) -> str:
    """numpy's name of the type that all samples have."""
    if not 0 < samples < _BLOCKS:
        raise Unsupported("number of samples")
    bits = tags.numbers(tag.BITS, samples)
    formats = tags.numbers(tag.FORMAT, samples) if tag.FORMAT in tags else (1,) * samples
    code = _CODES.get((formats[0], bits[0]))
    if code is None or bits.count(bits[0]) + formats.count(formats[0]) != 2 * samples:
        raise Unsupported("sample type")
    return code


def _blocks(tags: Tags, h: int, w: int, planes: int) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Height and width of a strip or tile; where each begins, and its bytes."""
    tiled = tag.TILE_OFFSETS in tags
    if not tags.lack(tag.STRIPS if tiled else tag.TILES):
        raise Unsupported("strips and tiles")
    if tiled:
        bh, bw = tags.number(tag.TILE_HEIGHT), tags.number(tag.TILE_WIDTH)
    else:
        bh, bw = min(h, tags.number(tag.ROWS, h)), w
    if not bh or not bw or (tiled and (bh % 16 or bw % 16)):
        raise Unsupported("size of strips or tiles")
    n = planes * -(-h // bh) * -(-w // bw)
    if n > _BLOCKS:
        raise Unsupported("so many strips or tiles")
    offsets = tags.numbers(tag.TILE_OFFSETS if tiled else tag.STRIP_OFFSETS, n)
    sizes = tags.numbers(tag.TILE_BYTES if tiled else tag.STRIP_BYTES, n)
    if 0 in sizes or 0 in offsets:
        raise Unsupported("blocks that are not stored")
    return bh, bw, offsets, sizes


def _unpacked(data: bytes, offset: int, stored: int, size: int, compression: int) -> memoryview | bytes:
    """The `size` bytes of a strip or tile, of which so many are stored."""
    raw: memoryview | bytes = memoryview(data)[offset : offset + stored]
    if len(raw) < stored:
        raise ValueError("damaged TIFF (a block is cut short)")
    if compression != 1:
        if size > _BLOCK:
            raise Unsupported("a large compressed block")
        stream = zlib.decompressobj()
        raw = stream.decompress(raw, size + 1)
        if not stream.eof:
            raise Unsupported("a block that holds too much, or does not end")
    if len(raw) != size:
        raise Unsupported("a block of another size")
    return raw


def _adjoin(offsets: Sequence[int], sizes: Sequence[int], whole: int) -> bool:
    """Whether blocks of `whole` bytes (the last may be shorter) follow each other without a gap."""
    ends = range(offsets[0], offsets[0] + whole * len(offsets), whole)
    return all(size == whole for size in sizes[:-1]) and tuple(offsets) == tuple(ends)
