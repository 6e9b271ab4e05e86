"""Points and polygons with classes: of a vector file, or of a table with coordinates."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsssl.data.grid import told
from rsssl.data.raster import import_gdal, quiet
from rsssl.errors import UserError, nearest
from rsssl.geo.class_map import open_dataset

FIELDS = ("class", "class_name", "classname", "label", "name", "category", "landcover", "land_cover")
LAYER = "|layername="  # as QGIS writes a layer of a file
DEGREES = ("lon", "long", "longitude"), ("lat", "latitude")  # columns of a CSV that hold a place, in WGS 84
PROJECTED = ("x", "easting"), ("y", "northing")  # and in the raster's CRS


class Feature(NamedTuple):
    """One feature of a file.

    Args:
        number: the file's own.
        value: its class; None where there is none.
        kind: "points" or "polygons"; "" where it has no geometry.
        parts: copies of what counts as one sample each, in the CRS that was asked for: every point of several; all
            parts of a polygon together; None for one that the CRS has no place for.
    """

    number: int
    value: Any
    kind: str
    parts: list[Any]


class VectorFile:
    """An open file of points or polygons.

    Args:
        path: the file; a layer of several as FILE|layername=LAYER.
        attribute: the field with the class; None for one with a usual name.
        key: that gave the path, and `field_key` that gave the attribute, for messages.
        field_key: see `key`.

    Attributes:
        field: the attribute that is read.
        notes: sentences on how the coordinates were understood.

    Raises:
        UserError: for a file, layer or field that is not there.
    """

    def __init__(
        self, path: str, attribute: str | None = None, key: str = "reference", field_key: str = "field"
    ) -> None:
        self.path, _, self._layer_name = path.partition(LAYER)
        self.attribute, self.key, self.field_key = attribute, key, field_key
        self.field, self.notes = "", list[str]()
        self._code: int | None = None  # the EPSG code of the coordinates, 0 for the raster's; None: as the file says
        self._dataset = open_dataset(self.path, self.key)
        self.is_raster = self._dataset.GetLayerCount() == 0
        if self.is_raster:
            return
        with told(self.path, f"{self.key}= with another file"):
            self._find_columns()
            self._layer = self._find_layer()
            self._index = self._find_field()
            self.field = _field_names(self._layer)[self._index]

    @property
    def raster(self) -> Any:
        """The open gdal.Dataset, of a file that is a raster."""
        return self._dataset

    def _find_columns(self) -> None:
        """Of a CSV without geometries, opens it again by the columns that say where its points are."""
        ogr, first = import_gdal(self.path, "ogr"), self._dataset.GetLayer(0)
        if self._dataset.GetDriver().ShortName != "CSV" or first.GetGeomType() != ogr.wkbNone:
            return
        columns = _field_names(first)
        for axes in (DEGREES, PROJECTED):
            pair = [next((c for c in columns if c.strip().lower() in usual), None) for usual in axes]
            if None not in pair:
                break
        else:
            raise UserError(
                f"{self.path} does not say where its points are; it has the columns {', '.join(columns)}: call two of "
                f"them lon and lat (degrees, WGS 84), or x and y (in the map's CRS), and type {self.key}=FILE"
            )
        options = [f"X_POSSIBLE_NAMES={pair[0]}", f"Y_POSSIBLE_NAMES={pair[1]}", "KEEP_GEOM_COLUMNS=NO"]
        self._dataset = open_dataset(self.path, self.key, options=options)
        self._code = 4326 if axes is DEGREES else 0
        crs = "the map's CRS; call degrees lon and lat"
        meaning = "degrees in WGS 84 (EPSG:4326)" if axes is DEGREES else f"coordinates in {crs}"
        self.notes.append(f"The columns {pair[0]} and {pair[1]} of {self.path} were taken to be {meaning}.")

    def _find_layer(self) -> Any:
        names = [self._dataset.GetLayer(i).GetName() for i in range(self._dataset.GetLayerCount())]
        path, name = self.path, self._layer_name
        if name and name not in names:
            close = nearest(name, names) or names[0]
            raise UserError(f"{path} has no layer {name!r}, only {', '.join(names)}: type {self._quoted(close)}")
        if not name and len(names) > 1:
            listed = f"{len(names)} layers ({', '.join(names)})"
            raise UserError(f"{path} has {listed}: type for example {self._quoted(names[0])}")
        return self._dataset.GetLayerByName(name) if name else self._dataset.GetLayer(0)

    def _quoted(self, layer: str) -> str:
        """What to type for a layer: Hydra's quotes within the shell's, because of the "="."""
        return shlex.quote(f'{self.key}="{self.path}{LAYER}{layer}"')

    def _find_field(self) -> int:
        """The index of the field that holds the class."""
        names, path, wanted = _field_names(self._layer), self.path, self.attribute
        if wanted is not None and wanted in names:
            return names.index(wanted)
        lower = [name.lower() for name in names]
        for name in FIELDS if wanted is None else (wanted.lower(),):
            if name in lower:
                return lower.index(name)
        if not names:
            raise UserError(f"{path} has no fields, so no classes: add one called class")
        missing = f"called {', '.join(FIELDS[:4])} or so" if wanted is None else repr(wanted)
        close = nearest(wanted or "", names) or names[0]
        raise UserError(
            f"{path} has no field {missing}; its fields are {', '.join(names)}: type for example "
            f"{self.field_key}={close}"
        )

    def reference(self) -> Any:
        """The CRS of its coordinates, an osr.SpatialReference; None where the file does not say."""
        osr = import_gdal(self.path, "osr")
        if self._code == 0:
            return None
        if self._code is None:
            return self._layer.GetSpatialRef()
        code = osr.SpatialReference()
        code.ImportFromEPSG(self._code)
        return code

    @property
    def in_raster_crs(self) -> bool:
        """Whether its coordinates are said to be in the CRS of the raster that it goes with."""
        return self._code == 0

    def files(self) -> list[Path]:
        """The files that GDAL reads."""
        return [file for name in self._dataset.GetFileList() or [] if (file := Path(name)).is_file()]

    def features(self, projection: str, swapped: bool = False) -> Iterator[Feature]:
        """All features, in the CRS of that WKT; as they are where that is "" or the file names no CRS. With their two
        coordinates `swapped`, to see whether somebody did."""
        transform = self._transformation(projection)
        for feature in self._rows():
            geometry, value = feature.GetGeometryRef(), feature.GetField(self._index)
            if isinstance(value, list | bytes | bytearray):
                raise UserError(
                    f"{self.path}, feature {feature.GetFID()}: its field {self.field} holds several values, and not a "
                    f"class: type {self.field_key}= with another field"
                )
            value = None if value is None or not str(value).strip() else value
            kind, parts = "", list[Any]()
            if value is not None and geometry is not None and not geometry.IsEmpty():
                kind, parts = _parts(geometry, f"{self.path}, feature {feature.GetFID()}")
                for part in parts if swapped else []:
                    part.SwapXY()
                if transform is not None:
                    parts = [part if _transformed(part, transform) else None for part in parts]
            yield Feature(feature.GetFID(), value, kind, parts)

    def _rows(self) -> Iterator[Any]:
        """GDAL's features; UserError where the file is damaged."""
        with told(self.path, f"{self.key}= with another file"), quiet(import_gdal(self.path)):
            self._layer.ResetReading()
            yield from self._layer

    def _transformation(self, projection: str) -> Any:
        """From the file's CRS to that one; None where they are the same, or one is not known."""
        osr, source = import_gdal(self.path, "osr"), self.reference()
        if source is None or not projection:
            return None
        source, target = source.Clone(), osr.SpatialReference(wkt=projection)
        for srs in (source, target):
            srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        try:
            return None if source.IsSame(target) else osr.CoordinateTransformation(source, target)
        except RuntimeError as error:
            raise UserError(
                f"{self.path} cannot be brought into the raster's CRS ({error}): type ogr2ogr -t_srs"
            ) from error


def _field_names(layer: Any) -> list[str]:
    definition = layer.GetLayerDefn()
    return [definition.GetFieldDefn(i).GetName() for i in range(definition.GetFieldCount())]


def _parts(geometry: Any, where: str) -> tuple[str, list[Any]]:
    """Copies of what counts as one sample each: every point of several; all parts of a polygon together."""
    ogr = import_gdal(where, "ogr")
    straight = geometry.GetLinearGeometry()  # without arcs; a copy
    flat = ogr.GT_Flatten(straight.GetGeometryType())
    if flat == ogr.wkbMultiPoint:
        return "points", [straight.GetGeometryRef(i).Clone() for i in range(straight.GetGeometryCount())]
    kinds = {ogr.wkbPoint: "points", ogr.wkbPolygon: "polygons", ogr.wkbMultiPolygon: "polygons"}
    if flat in kinds:
        return kinds[flat], [straight]
    raise UserError(
        f"{where} is a {straight.GetGeometryName().lower()}; points and polygons can be used: "
        "leave the others out of the file, ogr2ogr -where"
    )


def _transformed(geometry: Any, transform: Any) -> bool:
    """Transforms a geometry in place; False where the projection has no such place."""
    try:
        done = geometry.Transform(transform) == 0
    except RuntimeError:
        return False
    return done and all(np.isfinite(geometry.GetEnvelope()))


def inside(geometry: Any, projection: str, geotransform: tuple[float, ...], w: int, h: int) -> np.ndarray:
    """Which pixels (h, w) of a grid have their centre inside a polygon, bool.

    Args:
        geometry: the polygon, in the CRS of that WKT.
        projection: see `geometry`.
        geotransform: of the grid.
        w: columns.
        h: rows.
    """
    gdal, ogr, osr = (import_gdal("a polygon", module) for module in ("gdal", "ogr", "osr"))
    srs = osr.SpatialReference(wkt=projection) if projection else None
    memory = ogr.GetDriverByName("Memory").CreateDataSource("")
    layer = memory.CreateLayer("", srs)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(geometry)
    layer.CreateFeature(feature)
    burnt = gdal.GetDriverByName("MEM").Create("", w, h, 1, gdal.GDT_Byte)
    burnt.SetGeoTransform(geotransform)
    burnt.SetProjection(projection)
    gdal.RasterizeLayer(burnt, [1], layer, burn_values=[1])
    return np.frombuffer(burnt.ReadRaster(), np.uint8).reshape(h, w) > 0


def place_in(geometry: Any) -> tuple[float, float]:
    """A point on a polygon's surface (x, y)."""
    try:
        place = geometry.PointOnSurface()
    except RuntimeError:  # GEOS minds crossing edges
        place = geometry.Centroid()
    return place.GetX(), place.GetY()
