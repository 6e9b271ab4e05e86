"""The directory of a TIFF: its tags, their values, and what the texts of GDAL's own tags say."""

from __future__ import annotations

import re
import struct
from html import unescape
from xml.etree import ElementTree

# Those that are read, or written.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR, FORMAT = 273, 277, 278, 279, 284, 317, 339
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, GDAL_METADATA, GDAL_NODATA = 322, 323, 324, 325, 42112, 42113
STRIPS, TILES = (STRIP_OFFSETS, STRIP_BYTES, ROWS), (TILE_OFFSETS, TILE_BYTES, TILE_WIDTH, TILE_HEIGHT)
EXTRA, PIXEL_SCALE, TIE_POINT, GEO_KEYS = 338, 33550, 33922, 34735
_KNOWN = frozenset(
    (
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION, STRIP_OFFSETS, SAMPLES, ROWS),
        *(STRIP_BYTES, PLANAR, PREDICTOR, FORMAT, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, GDAL_METADATA),
        *(GDAL_NODATA, EXTRA, PIXEL_SCALE, TIE_POINT, GEO_KEYS),
        # kind of image, orientation, resolution (3), software, date, artist, copyright, place (3): no pixel's matter
        *(254, 274, 282, 283, 296, 305, 306, 315, 33432, 34264, 34736, 34737),
    )
)
ASCII, SHORT, LONG, DOUBLE = 2, 3, 4, 12  # types of a tag's values
TYPES, SIZES = {SHORT: "H", LONG: "I", DOUBLE: "d"}, {SHORT: 2, LONG: 4, DOUBLE: 8}
_TEXT = 1 << 16  # letters


class Unsupported(Exception):
    """A TIFF that is left to GDAL."""


class Tags:
    """The directory of a file's first image. Values are unpacked when asked for, by who knows how many there must be.

    Args:
        data: the file.

    Raises:
        Unsupported: for a tag that is not known, or known twice.
        struct.error: for a file that is cut short.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.order = data, "<" if data[:1] == b"I" else ">"
        (start,) = struct.unpack_from(self.order + "I", data, 4)
        (count,) = struct.unpack_from(self.order + "H", data, start)
        entries = struct.iter_unpack(self.order + "HHI4s", data[start + 2 : start + 2 + 12 * count])
        self._fields = {entry[0]: entry for entry in entries}
        if len(self._fields) < count or not self._fields.keys() <= _KNOWN:
            raise Unsupported("tags that are not known, or twice there")

    def __contains__(self, tag: int) -> bool:
        return tag in self._fields

    def lack(self, tags: tuple[int, ...]) -> bool:
        """Whether none of the tags is there."""
        return self._fields.keys().isdisjoint(tags)

    def numbers(self, tag: int, n: int) -> tuple[int, ...]:
        """The n whole numbers of a tag; Unsupported where it has another number of them."""
        _, kind, count, field = self._fields.get(tag, (tag, 0, 0, b""))
        if count != n or kind not in (SHORT, LONG):
            raise Unsupported(f"tag {tag} has not {n} whole numbers")
        layout = f"{self.order}{n}{TYPES[kind]}"
        if n * SIZES[kind] <= 4:
            return struct.unpack_from(layout, field)
        return struct.unpack_from(layout, self.data, *struct.unpack(self.order + "I", field))

    def number(self, tag: int, default: int | None = None) -> int:
        """The one number of a tag; the default where there is one, and no tag."""
        return default if default is not None and tag not in self._fields else self.numbers(tag, 1)[0]

    def text(self, tag: int) -> str:
        """The text of a tag up to its first zero byte, "" where there is no tag; Unsupported for a long one."""
        _, kind, n, field = self._fields.get(tag, (tag, ASCII, 0, b""))
        (start,) = struct.unpack(self.order + "I", field) if n > 4 else (0,)
        text = (self.data if n > 4 else field)[start : start + n]
        if kind != ASCII or n > _TEXT or len(text) < n or not text.isascii():
            raise Unsupported(f"tag {tag} is no short text")
        return text.partition(b"\0")[0].decode()


def nodata_of(text: str) -> float | None:
    """The number of a text, None for ""; Unsupported for what only C's way of reading makes a number of."""
    if not text:
        return None
    if not re.fullmatch(r"[+-]?(\d+(\.\d*)?([eE][+-]?\d+)?|inf)|nan", text.strip(" ")):
        raise Unsupported(f"nodata {text}")
    return float(text)


def names_of(text: str, n: int) -> tuple[str, ...]:
    """The names of n bands, from GDAL's XML; Unsupported for other XML."""
    names = [""] * n
    if "description" not in text.lower():
        return tuple(names)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        raise Unsupported("XML") from None
    for item in root:
        band, role = item.get("sample", ""), item.get("role", "")
        plain = root.tag == "GDALMetadata" and item.tag == "Item" and not len(item) and "<!" not in text
        if not plain or not item.attrib.keys() <= {"name", "sample", "role", "domain"}:
            raise Unsupported("XML")
        if role == "description" and band.isdigit() and int(band) < n:
            name = item.text or ""
            if re.search(r"&(?!(amp|lt|gt|quot|apos);)", name):
                raise Unsupported("XML")
            names[int(band)] = unescape(name)  # GDAL escapes twice
        elif role.lower() == "description":
            raise Unsupported("XML")
    return tuple(names)
