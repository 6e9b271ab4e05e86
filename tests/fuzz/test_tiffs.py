"""TIFFs of all kinds, whole and damaged: read as GDAL reads them, or refused; never something else, nor much memory.

`RSSSL_FUZZ=170 pytest tests/fuzz -s` tries a hundred thousand files in place of six hundred.
"""

from __future__ import annotations

import os
import random
import struct
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsssl.data import geotiff, raster
from rsssl.data.decoders import BadImage
from rsssl.data.tiff_tags import Unsupported

FILES, DAMAGES = 50 * int(float(os.environ.get("RSSSL_FUZZ", "1"))), 11  # files that are made, and what is made of each
TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339)
Entry = tuple[int, int, int, bytes]  # tag, type, number of values, the values or where they lie


def whole(draw: random.Random, gdal: Any, path: Path) -> None:
    """A TIFF of random size, type and layout, by our writer or by GDAL."""
    dtype = draw.choice(TYPES)
    shape = draw.choice((1, 1, 2, 3, 3, 4, 13)), draw.randint(1, 40), draw.randint(1, 40)
    numbers = np.random.default_rng(draw.getrandbits(32)).integers(0, draw.choice((3, 200)), shape)
    array = (numbers - 100 * (dtype[0] in "if")).astype(dtype)
    nodata = draw.choice((None, None, 0, 7, 255, -9999, 0.5, float("nan")))
    names = [f"B{i} <&> {'é' * (draw.random() < 0.1)}" for i in range(len(array))] if draw.random() < 0.4 else None
    if draw.random() < 0.25:
        geotiff.write(
            path, array, (5e5, 10, 0, 5.4e6, 0, -10), "EPSG:32632", nodata, names, draw.choice((None, "deflate"))
        )
        return
    options = [f"INTERLEAVE={draw.choice(('PIXEL', 'BAND'))}", f"ENDIANNESS={draw.choice(('LITTLE', 'BIG'))}"]
    compression = draw.choice(("NONE", "NONE", "DEFLATE", "DEFLATE", "LZW", "PACKBITS"))
    options.append(f"COMPRESS={compression}")
    if compression in ("DEFLATE", "LZW"):
        options.append(f"PREDICTOR={draw.choice((1, 2, 3) if dtype[0] == 'f' else (1, 2))}")
    if draw.random() < 0.4:
        options += ["TILED=YES", f"BLOCKXSIZE={draw.choice((16, 32))}", f"BLOCKYSIZE={draw.choice((16, 32))}"]
    else:
        options.append(f"BLOCKYSIZE={draw.randint(1, 45)}")
    options += draw.choice(([], [], [], ["BIGTIFF=YES"], ["SPARSE_OK=TRUE"], ["PHOTOMETRIC=MINISWHITE"], ["ALPHA=YES"]))
    driver, (c, h, w) = gdal.GetDriverByName("GTiff"), shape
    target = driver.Create(str(path), w, h, c, raster.gdal_type(gdal, array.dtype), options)
    rows = draw.choice((h, h, h, h // 2))
    if rows:
        target.WriteRaster(0, 0, w, rows, np.ascontiguousarray(array[:, :rows]).tobytes())
    if nodata is not None:
        target.GetRasterBand(1).SetNoDataValue(nodata)
    for i, name in enumerate(names or ()):
        target.GetRasterBand(i + 1).SetDescription(name)
    if draw.random() < 0.3:
        target.SetGeoTransform((5e5, 10, 0, 5.4e6, 0, -10))
        target.SetMetadataItem("TIFFTAG_IMAGEDESCRIPTION", "a field")


def damaged(draw: random.Random, data: bytes) -> bytes:
    """The file with something wrong: bits, bytes, its length, or its directory."""
    way = draw.randrange(8)
    if way == 0:
        return data[: draw.randrange(len(data))]
    if way == 1:
        return data + draw.randbytes(draw.randint(1, 9))
    if way == 2 or data[2:4] not in (b"*\0", b"\0*"):
        out, last = bytearray(data), len(data) if draw.random() < 0.5 else min(len(data), 300)
        for _ in range(draw.randint(1, 4)):
            out[draw.randrange(last)] ^= 1 << draw.randrange(8)
        return bytes(out)
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    if way == 3:  # the directory and what follows it, or the values elsewhere
        out = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            out[draw.randrange(start, len(data))] = draw.choice((0, 1, 2, 8, 16, 32, 127, 255, draw.randrange(256)))
        return bytes(out)
    entries = list(struct.iter_unpack(order + "HHI4s", data[start + 2 : start + 2 + 12 * count]))
    for _ in range(draw.choice((1, 1, 2))):
        _change(draw, entries, order, len(data))
    pad = b"\0" * (len(data) % 2)
    directory = struct.pack(order + "H", len(entries)) + b"".join(struct.pack(order + "HHI4s", *e) for e in entries)
    at = struct.pack(order + "I", len(data) + len(pad))
    return data[:4] + at + data[8:] + pad + directory + bytes(4)


def _change(draw: random.Random, entries: list[Entry], order: str, length: int) -> None:
    """One entry is removed, repeated, added, moved or made to say something else."""
    i = draw.randrange(len(entries))
    tag, kind, n, field = entries[i]
    small = draw.choice((0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 64, 255, 256, 4096, 65535, 32946, draw.randrange(length)))
    large = draw.choice((small, small, 1 << 16, 1 << 20, 1 << 31, (1 << 32) - 1))
    short = struct.pack(order + "HH", small & 0xFFFF, draw.choice((0, 0, small & 0xFFFF)))
    value = draw.choice((short, struct.pack(order + "I", large)))
    way = draw.randrange(9)
    if way == 0 and len(entries) > 1:
        del entries[i]
    elif way == 1:
        entries.insert(i + draw.choice((0, 1)), draw.choice((entries[i], (tag, kind, n, value))))
    elif way == 2:
        entries.append((draw.choice(TAGS), draw.choice((2, 3, 4)), draw.choice((1, 1, 2, 3, small)), value))
        if draw.random() < 0.7:
            entries.sort(key=lambda entry: entry[0])
    elif way == 3:
        draw.shuffle(entries)
    elif way == 4:
        entries[i] = draw.choice((*TAGS, draw.randrange(65536))), kind, n, field
    elif way == 5:
        entries[i] = tag, draw.choice((1, 2, 3, 4, 5, 6, 12, 13, 16)), n, field
    elif way == 6:
        entries[i] = tag, kind, draw.choice((n + 1, max(0, n - 1), small, large)), field
    else:
        entries[i] = tag, kind, n, value


def by_gdal(path: Path) -> raster.Raster | str:
    """What GDAL reads, or why it does not."""
    try:
        return raster._gdal(path)
    except Exception as error:
        reason = f"{error}"
    if "Key " not in reason:
        return reason
    data = bytearray(path.read_bytes())
    order = "<" if data[:1] == b"I" else ">"
    start = data.find(struct.pack(order + "H", 34735), *struct.unpack(order + "I", data[4:8]))
    data[start : start + 2] = struct.pack(
        order + "H", 34999
    )  # without its place on the ground, which is no pixel's matter
    other = path.with_name("without_place.tif")
    other.write_bytes(data)
    return by_gdal(other)


def judged(path: Path) -> str:
    """What became of a file: "equal" or "refused", by the reader and by all that `read` calls; or what is wrong."""
    if (megabytes := memory_of(path)) > 256:
        return f"{megabytes:.0f} MB"
    theirs = by_gdal(path)
    try:
        ours: Any = geotiff.read(path)
    except (Unsupported, ValueError):
        ours = None
    try:
        used: Any = raster.read(path)
    except BadImage:
        used = None
    for image in filter(None, (ours, used)):
        if isinstance(theirs, str):
            return f"read, and GDAL says {theirs}"
        # GDAL's own pixels are random where a compressed block unpacks to more than its size (libtiff with libdeflate).
        if ours and (image.pixels.dtype != theirs.pixels.dtype or image.pixels.tobytes() != theirs.pixels.tobytes()):
            return "other pixels"
        if image.pixels.shape != theirs.pixels.shape or image.names != theirs.names:
            return f"names {image.names}, GDAL {theirs.names}"
        single = theirs.pixels.dtype == np.float32
        nodata = {None if n is None else str(np.float32(n) if single else n) for n in (image.nodata, theirs.nodata)}
        if len(nodata) > 1:
            return f"nodata {nodata}"
    return " and ".join("refused" if image is None else "equal" for image in (ours, used))


def memory_of(path: Path) -> float:
    """MB of memory that reading the file takes at most; 0 where the system does not say."""
    peaks = []
    for read in (None, geotiff.read, raster.read):
        if not os.path.exists("/proc/self/clear_refs"):
            return 0
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
        with suppress(Unsupported, ValueError, BadImage):
            _ = read and read(path)
            del _
        peaks.append(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000)
    return max(peaks) - peaks[0]


def test_what_is_read_is_what_gdal_reads(tmp_path: Path) -> None:
    gdal = raster.import_gdal("the fuzzer") if raster.has_gdal() else pytest.skip("no GDAL to compare with")
    draw, path, seen, wrong = random.Random(FILES), tmp_path / "a.tif", Counter[str](), list[str]()
    for number in range(FILES):
        path.unlink(missing_ok=True)
        with raster.quiet(gdal):
            whole(draw, gdal, path)
        (tmp_path / "a.tif.aux.xml").unlink(missing_ok=True)
        data = path.read_bytes()
        for turn in range(1 + DAMAGES):
            if turn:
                path.write_bytes(damaged(draw, data))
            verdict = judged(path)
            seen[verdict] += 1
            if verdict.split()[0] not in ("equal", "refused"):
                wrong.append(f"{path.rename(tmp_path / f'{number}-{turn}.tif').name}: {verdict}")
    print(dict(seen))
    assert not wrong, "\n".join(wrong[:30])
    assert seen["equal and equal"] > 2 * FILES  # many are read, or nothing is shown


def bomb(kind: str) -> bytes:
    """A TIFF of 64 x 64 pixels that is larger than it looks, in one way."""
    packed = zlib.compress(bytes(1 << 28), 1) if kind == "block" else zlib.compress(bytes(64 * 64))
    large = {"image": (70_000, 70_000), "tile": (64, 64), "bytes": (8000, 9000)}.get(kind, (64, 64))
    strips = 1 << 21 if kind == "strips" else 1
    entries = [
        *((256, 4, 1, large[0]), (257, 4, 1, large[1]), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)),
        *((273, 4, strips, 8), (277, 3, 1, 1), (278, 4, 1, large[1]), (279, 4, strips, len(packed))),
    ]
    if kind == "tile":
        entries[5] = (277, 3, 1, 1)
        entries[6:] = [(322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, 8), (325, 4, 1, len(packed))]
    if kind == "entries":
        entries += [(273, 4, 1 << 20, 8)] * 65_000
    if kind == "text":
        entries.append((42113, 2, 8 << 20, 8))
    body = packed + bytes((8 << 20) if kind in ("strips", "text", "entries") else 0)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


@pytest.mark.parametrize("kind", ["block", "image", "tile", "bytes", "strips", "entries", "text"])
def test_a_small_file_takes_little_memory_and_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(bomb(kind))
    began = time.perf_counter()
    assert memory_of(path) < 256 and time.perf_counter() - began < 5
    with pytest.raises((Unsupported, ValueError)):
        geotiff.read(path)
