"""Rasters that are written block by block and end as cloud-optimised GeoTIFFs, whole or absent.

Until it is finished, a file stands under hidden names beside the target; only the finished file takes the target's
name.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.grid import Grid
from rsssl.data.raster import gdal_type, import_gdal, quiet
from rsssl.engine.files import NO_SPACE, NOT_ALLOWED, sync, write_error
from rsssl.errors import UserError
from rsssl.geo.style import printable

LEVEL = 6  # of DEFLATE in the finished file: 9 takes five times as long for a few per cent
TILE_BYTES = 2**26  # of all bands of one tile, before compression; GDAL holds several at a time


@dataclass(frozen=True)
class Values:
    """What the numbers in a product are.

    Args:
        dtype: numpy's name: uint8, int16, uint16, int32, uint32, float32 or float64.
        nodata: the value that stands for "nothing here".
        bands: descriptions of the bands.
        classes: of a class map of one band holding numbers 0..K-1: their names.
        colours: of the classes, (K, 3) uint8.
        scale: the factor that turns stored values into real ones, as 0.0001 for probabilities stored as 0..10000.
    """

    dtype: str
    nodata: float
    bands: Sequence[str]
    classes: Sequence[str] | None = None
    colours: np.ndarray | None = None
    scale: float | None = None


class Product:
    """A GeoTIFF that is written block by block and becomes a cloud-optimised one in the end.

        values = Values("uint8", 255, ["class"], classes=names, colours=palette(len(names)))
        with Product(Path("map.tif"), grid, values) as product:
            product.write(x, y, block)  # (1, h, w), in any order; pixels never written are nodata

    Leaving the block finishes the file, an exception abandons it; an older file of that name stays until it is
    replaced. Where a tile of 512 x 512 pixels of all bands is more than 64 MiB, tiles are smaller and there are no
    overviews. Names of classes stand in `target.tif.aux.xml`, where GDAL and QGIS look for them: GeoTIFF has no place
    for them.

    Args:
        target: the file; its folder is made.
        grid: size and georeference.
        values: what the numbers are.
        metadata: of the file, as GDAL's default domain.

    Raises:
        UserError: GDAL is missing, the folder cannot be written, the disk is full or GDAL fails, in all methods.
    """

    def __init__(self, target: Path, grid: Grid, values: Values, metadata: Mapping[str, str] | None = None) -> None:
        self.target, self.values, self.dtype = Path(target), values, np.dtype(values.dtype)
        self._gdal, self._dataset = import_gdal(target), None
        self._work = self.target.with_name(f".{self.target.name}.work.tif")
        self._cog = self.target.with_name(f".{self.target.name}.cog.tif")
        tile = self.dtype.itemsize * len(values.bands) * 512**2
        self._block = 512 if tile <= TILE_BYTES else 256 if tile <= 4 * TILE_BYTES else 128
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove()  # leftovers of a killed run
            self._work.touch()  # the system's error is clearer than GDAL's
        except OSError as error:
            raise write_error(error, self.target, "out=FILE") from error
        with self._guard():
            self._dataset = self._created(grid, metadata or {})

    def _created(self, grid: Grid, metadata: Mapping[str, str]) -> Any:
        """The file that blocks are written into."""
        gdal, values = self._gdal, self.values
        options = [
            "TILED=YES",
            f"BLOCKXSIZE={self._block}",
            f"BLOCKYSIZE={self._block}",
            "COMPRESS=DEFLATE",
            "ZLEVEL=1",
        ]
        options += ["SPARSE_OK=TRUE", "BIGTIFF=IF_SAFER", "PHOTOMETRIC=MINISBLACK", "ALPHA=NO"]
        size = grid.width, grid.height, len(values.bands)
        driver = gdal.GetDriverByName("GTiff")
        created = driver.Create(os.fspath(self._work), *size, gdal_type(gdal, self.dtype), options)
        grid.put_on(created, gdal)
        if metadata:
            created.SetMetadata({key: str(value) for key, value in metadata.items()})
        for i, name in enumerate(values.bands):
            band = created.GetRasterBand(i + 1)
            band.SetNoDataValue(values.nodata)
            band.SetDescription(printable(name))
            if values.scale is not None:
                band.SetScale(values.scale)
        if values.colours is not None:
            table = gdal.ColorTable()
            for number, colour in enumerate(values.colours.tolist()):
                table.SetColorEntry(number, (*colour, 255))
            table.SetColorEntry(int(values.nodata), (0, 0, 0, 0))
            created.GetRasterBand(1).SetColorTable(table)
        if values.classes is not None:
            created.GetRasterBand(1).SetCategoryNames([printable(name) for name in values.classes])
        return created

    def write(self, x: int, y: int, array: np.ndarray) -> None:
        """Puts a block into the file.

        Args:
            x: the column of its upper left pixel.
            y: the row of that.
            array: (C, h, w), of the product's dtype.
        """
        if array.dtype != self.dtype or array.ndim != 3:
            raise ValueError(f"{self.target}: (C, h, w) of {self.dtype} is wanted, not {array.shape} of {array.dtype}")
        _, h, w = array.shape
        with self._guard():
            assert self._dataset is not None, "finished or abandoned"
            self._dataset.WriteRaster(x, y, w, h, np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        """Makes the cloud-optimised file and gives it the target's name; removes what was temporary."""
        gdal, is_map = self._gdal, self.values.classes is not None
        # Overviews of a class map take the nearest pixel: each class keeps its share, where the most frequent one of
        # four (MODE) would let scattered classes vanish level by level. Differences of class numbers do not compress
        # better.
        sampling = "NEAREST" if is_map else "AVERAGE"
        predictor = "YES" if self.dtype.itemsize > 1 and not is_map else "NO"
        options = ["COMPRESS=DEFLATE", f"LEVEL={LEVEL}", f"PREDICTOR={predictor}", f"BLOCKSIZE={self._block}"]
        options += [f"RESAMPLING={sampling}", "BIGTIFF=IF_SAFER", "NUM_THREADS=ALL_CPUS"]
        if self._block < 512:
            options.append(
                "OVERVIEWS=NONE"
            )  # of hundreds of bands: they take 20 times as long, and nobody looks at them
        with self._guard():
            assert self._dataset is not None, "finished or abandoned"
            self._dataset.FlushCache()
            self._dataset = None  # closed, and opened again: what is copied is what is on the disk
            source = gdal.Open(os.fspath(self._work))
            copy = gdal.GetDriverByName("COG").CreateCopy(os.fspath(self._cog), source, 0, options)
            copy.FlushCache()
            copy = source = None
        try:
            self._move()
            self._remove()
        except OSError as error:
            self.abandon()
            raise write_error(error, self.target, "out=FILE") from error

    def _move(self) -> None:
        """Gives the finished file, and that of its class names, their names."""
        names, beside = (path.with_name(f"{path.name}.aux.xml") for path in (self._cog, self.target))
        sync(self._cog)
        if names.exists():
            sync(names)
            os.replace(names, beside)  # before the raster, which never stands there without the names of its classes
        else:
            beside.unlink(missing_ok=True)  # of an older file: its statistics and names do not belong to this one
        os.replace(self._cog, self.target)
        sync(self.target.parent)

    def abandon(self) -> None:
        """Removes what was temporary; the target stays as it was."""
        with quiet(self._gdal):
            self._dataset = None
        self._remove()

    def _remove(self) -> None:
        for path in (self._work, self._cog):  # and what GDAL puts beside them: .aux.xml, .ovr.tmp
            for leftover in path.parent.glob(f"{glob.escape(path.name)}*"):
                leftover.unlink(missing_ok=True)

    def __enter__(self) -> Product:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turns GDAL's failures, also those that it only mentions while it closes a file, into a UserError."""
        failures: list[str] = []

        def hear(kind: int, _: int, message: str) -> None:
            if kind >= self._gdal.CE_Failure:
                failures.append(message)

        self._gdal.PushErrorHandler(hear)
        try:
            try:
                yield
            finally:
                self._gdal.PopErrorHandler()
            if failures:
                raise RuntimeError(failures[0])
        except RuntimeError as error:
            self.abandon()
            raise self._error("; ".join(dict.fromkeys(failures)) or str(error)) from error

    def _error(self, reason: str) -> UserError:
        """For a failure of GDAL, which repeats in words what the system said."""
        code = next((code for code in (*NO_SPACE, *NOT_ALLOWED) if os.strerror(code) in reason), errno.EIO)
        return write_error(OSError(code, reason), self.target, "out=FILE")
