"""Rasters that are written block by block and end as cloud-optimised GeoTIFFs, whole or absent.

What is being written stands under hidden names beside the target; only the finished file takes the target's name.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.engine.files import sync
from rsssl.errors import UserError
from rsssl.geo.style import printable

LEVEL = 6  # of DEFLATE in the finished file: 9 takes five times as long for a few per cent
TILE_BYTES = 2**26  # of all bands of one tile, before compression; GDAL holds several at a time
GCP = tuple[float, float, float, float, float]  # column, row, x, y, z
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_YOURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie.

    width, height: pixels.
    geotransform: GDAL's (x0, dx per column, dx per row, y0, dy per column, dy per row) of the upper left corner of the
      upper left pixel, in units of the CRS; None where the raster has none.
    projection: its CRS as WKT, "" for none.
    gcps, gcp_projection: ground control points and their CRS, of rasters that have these in place of a geotransform.
    """

    width: int
    height: int
    geotransform: tuple[float, ...] | None = None
    projection: str = ""
    gcps: tuple[GCP, ...] = ()
    gcp_projection: str = ""

    @classmethod
    def of(cls, dataset: Any) -> Grid:
        """The grid of an open gdal.Dataset."""
        transform = dataset.GetGeoTransform(can_return_null=True)
        gcps = tuple((p.GCPPixel, p.GCPLine, p.GCPX, p.GCPY, p.GCPZ) for p in dataset.GetGCPs())
        return cls(
            dataset.RasterXSize,
            dataset.RasterYSize,
            tuple(transform) if transform else None,
            _wkt(dataset.GetSpatialRef()),
            gcps,
            _wkt(dataset.GetGCPSpatialRef()),
        )

    def put_on(self, dataset: Any, gdal: Any) -> None:
        """Georeferences a gdal.Dataset of the same size."""
        if self.projection:
            dataset.SetProjection(self.projection)
        if self.geotransform is not None:
            dataset.SetGeoTransform(list(self.geotransform))
        elif self.gcps:  # a GeoTIFF holds one or the other
            points = [gdal.GCP(x, y, z, column, row) for column, row, x, y, z in self.gcps]
            dataset.SetGCPs(points, self.gcp_projection)


def _wkt(srs: Any) -> str:
    return "" if srs is None else str(srs.ExportToWkt(["FORMAT=WKT2_2018"]))  # WKT 1 has no words for some of them


class Product:
    """A GeoTIFF that is written block by block and becomes a cloud-optimised one in the end.

        with Product(Path("map.tif"), grid, "uint8", 255, ["class"], classes=names, colours=palette(len(names))) as product:
            product.write(x, y, block)  # (1, h, w), in any order; pixels never written are nodata

    Leaving the block finishes the file, an exception abandons it; an older file of that name stays until it is replaced.
    So many bands that a tile of 512 x 512 pixels is more than 64 MiB get smaller tiles and no overviews.
    Names of classes stand in `target.tif.aux.xml`, where GDAL and QGIS look for them: GeoTIFF has no place for them.

    Args:
        target: the file; its folder is made.
        grid: size and georeference.
        dtype: numpy's name: uint8, int16, uint16, int32, uint32, float32 or float64.
        nodata: the value that stands for "nothing here".
        bands: descriptions of the bands.
        classes, colours: of a class map of one band holding numbers 0..K-1: their names, and (K, 3) uint8.
        scale: the factor that turns stored values into real ones, as 0.0001 for probabilities stored as 0..10000.
        metadata: of the file, as GDAL's default domain.

    Raises:
        UserError: GDAL is missing, the folder cannot be written, the disk is full or GDAL fails, in all methods.
    """

    def __init__(
        self,
        target: Path,
        grid: Grid,
        dtype: str,
        nodata: float,
        bands: Sequence[str],
        *,
        classes: Sequence[str] | None = None,
        colours: np.ndarray | None = None,
        scale: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.target, self.grid, self.dtype = Path(target), grid, np.dtype(dtype)
        self._gdal = gdal = import_gdal(target)
        self._work = self.target.with_name(f".{self.target.name}.work.tif")
        self._cog = self.target.with_name(f".{self.target.name}.cog.tif")
        self._class_map, self._dataset = classes is not None, None
        tile = self.dtype.itemsize * len(bands) * 512**2
        self._block = 512 if tile <= TILE_BYTES else 256 if tile <= 4 * TILE_BYTES else 128
        options = [
            "TILED=YES",
            f"BLOCKXSIZE={self._block}",
            f"BLOCKYSIZE={self._block}",
            "COMPRESS=DEFLATE",
            "ZLEVEL=1",
            "SPARSE_OK=TRUE",
            "BIGTIFF=IF_SAFER",
            "PHOTOMETRIC=MINISBLACK",
            "ALPHA=NO",
        ]
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove()  # what a killed run left
            self._work.touch()  # the system says clearer than GDAL why it will not
        except OSError as error:
            raise self._explain(str(error), error) from error
        with self._guard():
            driver = gdal.GetDriverByName("GTiff")
            created = driver.Create(
                os.fspath(self._work), grid.width, grid.height, len(bands), _kind(gdal, self.dtype), options
            )
            self._dataset = created
            grid.put_on(created, gdal)
            if metadata:
                created.SetMetadata({key: str(value) for key, value in metadata.items()})
            for i, name in enumerate(bands):
                band = created.GetRasterBand(i + 1)
                band.SetNoDataValue(nodata)
                band.SetDescription(printable(name))
                if scale is not None:
                    band.SetScale(scale)
            if colours is not None:
                created.GetRasterBand(1).SetColorTable(_colour_table(gdal, colours, int(nodata)))
            if classes is not None:
                created.GetRasterBand(1).SetCategoryNames([printable(name) for name in classes])

    def write(self, x: int, y: int, array: np.ndarray) -> None:
        """Puts (C, h, w), of the product's dtype, with its upper left pixel at column x of row y."""
        if array.dtype != self.dtype or array.ndim != 3:
            raise ValueError(f"{self.target}: (C, h, w) of {self.dtype} is wanted, not {array.shape} of {array.dtype}")
        _, h, w = array.shape
        with self._guard():
            assert self._dataset is not None, "finished or abandoned"
            self._dataset.WriteRaster(x, y, w, h, np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        """Makes the cloud-optimised file and gives it the target's name; removes what was temporary."""
        gdal = self._gdal
        # Overviews of a class map take the nearest pixel: each class keeps its share, where the most frequent one of four
        # (MODE) would let scattered classes vanish level by level. The differences of class numbers compress nothing.
        sampling = "NEAREST" if self._class_map else "AVERAGE"
        predictor = "YES" if self.dtype.itemsize > 1 and not self._class_map else "NO"
        options = [
            "COMPRESS=DEFLATE",
            f"LEVEL={LEVEL}",
            f"PREDICTOR={predictor}",
            f"BLOCKSIZE={self._block}",
            f"RESAMPLING={sampling}",
            "BIGTIFF=IF_SAFER",
            "NUM_THREADS=ALL_CPUS",
        ]
        if (
            self._block < 512
        ):  # hundreds of bands: GDAL takes 20 times as long with overviews, which nobody would look at
            options.append("OVERVIEWS=NONE")
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
            raise self._explain(str(error), error) from error

    def _move(self) -> None:
        names, beside = (path.with_name(f"{path.name}.aux.xml") for path in (self._cog, self.target))
        sync(self._cog)
        if names.exists():
            sync(names)
            os.replace(names, beside)  # before the raster: it never stands there without the names of its classes
        else:
            beside.unlink(missing_ok=True)  # of an older file: statistics and names that are not this one's
        os.replace(self._cog, self.target)
        sync(self.target.parent)

    def abandon(self) -> None:
        """Removes what was temporary; the target stays as it was."""
        self._gdal.PushErrorHandler("CPLQuietErrorHandler")
        try:
            self._dataset = None
        finally:
            self._gdal.PopErrorHandler()
        self._remove()

    def _remove(self) -> None:
        for path in (self._work, self._cog):  # and what GDAL puts beside them: .aux.xml, .ovr.tmp
            for leftover in path.parent.glob(f"{glob.escape(path.name)}*"):
                leftover.unlink(missing_ok=True)

    def __enter__(self) -> Product:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """GDAL's failures, those it mentions while it closes a file among them, as a UserError; its warnings unheard."""
        failures: list[str] = []

        def hear(kind: int, _: int, message: str) -> None:
            if kind >= self._gdal.CE_Failure:
                failures.append(message)

        self._gdal.PushErrorHandler(hear)
        try:
            yield
            if failures:
                raise RuntimeError(failures[0])
        except RuntimeError as error:
            self._gdal.PopErrorHandler()
            self.abandon()
            raise self._explain("; ".join(dict.fromkeys(failures)) or str(error)) from error
        except BaseException:
            self._gdal.PopErrorHandler()
            raise
        else:
            self._gdal.PopErrorHandler()

    def _explain(self, reason: str, error: OSError | None = None) -> UserError:
        def is_one_of(codes: Sequence[int]) -> bool:
            return error.errno in codes if error else any(os.strerror(code) in reason for code in codes)

        if is_one_of(_NO_SPACE):
            return UserError(
                f"no space left to write {self.target} ({reason}): free some, or type out=FILE on a larger disk"
            )
        if is_one_of(_NOT_YOURS):
            return UserError(f"{self.target} cannot be written ({reason}): type out=FILE in a folder of yours")
        return UserError(
            f"{self.target} cannot be written ({reason}): type out=FILE on another disk, or df -h to see this one"
        )


def _kind(gdal: Any, dtype: np.dtype) -> int:
    names = {
        "uint8": "Byte",
        "int16": "Int16",
        "uint16": "UInt16",
        "int32": "Int32",
        "uint32": "UInt32",
        "float32": "Float32",
        "float64": "Float64",
    }
    return int(getattr(gdal, f"GDT_{names[dtype.name]}"))


def _colour_table(gdal: Any, colours: np.ndarray, nodata: int) -> Any:
    table = gdal.ColorTable()
    for number, (red, green, blue) in enumerate(colours.tolist()):
        table.SetColorEntry(number, (red, green, blue, 255))
    table.SetColorEntry(nodata, (0, 0, 0, 0))
    return table
