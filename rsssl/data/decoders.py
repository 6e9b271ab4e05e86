"""What may decode a file: the suffix of its name says so, not its content.

None of these decoders opens another file, or an address, that an image names. The size of an image is known from its
header before its pixels are read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from rsssl.data.geotiff import MOST

PICTURES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".gif"))  # read by Pillow
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF")  # of pictures: a PNG named .jpg is common; Pillow's and GDAL's names
TIFF = ("GTiff",)
RASTERS = {  # suffixes of other images, and GDAL's drivers that may open them
    **dict.fromkeys((".tif", ".tiff"), TIFF),
    **dict.fromkeys((".jp2", ".j2k"), ("JP2KAK", "JP2ECW", "JP2MrSID", "JP2OpenJPEG")),  # whichever is there
    **dict.fromkeys((".ntf", ".nitf"), ("NITF",)),
    **dict.fromkeys((".img", ".bil", ".bsq"), ("HFA", "EHdr", "ENVI")),
}
POINTERS = {".vrt": ("VRT", "OGR_VRT"), ".ers": ("ERS",), ".pix": ("PCIDSK",)}  # that name other files to read from
_VECTORS = {
    ".csv": ("CSV",),
    ".fgb": ("FlatGeobuf",),
    ".geojson": ("GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON"),
    ".gpkg": ("GPKG",),
    ".shp": ("ESRI Shapefile",),
}
ANY = tuple(dict.fromkeys(driver for drivers in RASTERS.values() for driver in drivers))  # of another suffix
DRIVERS = dict.fromkeys(PICTURES, FORMATS) | RASTERS | POINTERS | _VECTORS


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


def safe_suffix(path: str | Path, here: bool = True) -> str:
    """The suffix of an image file, in small letters.

    Args:
        path: its name.
        here: it is a file of this machine, and is looked at.

    Raises:
        BadImage: for what is no file, so that opening it might never end, and for one that names other files.
        OSError: where there is none.
    """
    if here and not stat.S_ISREG(mode := os.stat(path).st_mode):
        raise BadImage(path, f"not a file but a {'folder' if stat.S_ISDIR(mode) else 'pipe, socket or device'}")
    suffix = os.path.splitext(path)[1].lower()
    if suffix in POINTERS:
        raise BadImage(
            path,
            "the pixels lie in other files, which it names: copy them into one, gdal_translate IN OUT.tif, or type it "
            f"as a scene, dataset=scene dataset.scenes={path}",
        )
    return suffix


def refuse_large(path: str | Path, shape: tuple[int, int, int], itemsize: int) -> None:
    """Raises BadImage for an image (C, H, W) that takes more memory than a tile does."""
    c, h, w = shape
    if (size := c * h * w * itemsize) > MOST:
        raise BadImage(
            path,
            f"{w} x {h} pixels of {c} bands are {size / 1e6:.0f} MB, and a tile has at most {MOST / 1e6:.0f}: "
            f"for windows of a scene type dataset=scene dataset.scenes={path}",
        )
