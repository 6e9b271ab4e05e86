"""A class map against points and polygons: of a vector file, or of a table with coordinates."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.errors import UserError, nearest
from rsssl.geo.class_map import ClassMap, empty_raster, open_dataset
from rsssl.geo.samples import Samples

FIELDS = ("class", "class_name", "classname", "label", "name", "category", "landcover", "land_cover")
LAYER = "|layername="  # as QGIS writes a layer of a file
DEGREES = ("lon", "long", "longitude"), ("lat", "latitude")  # columns of a CSV that hold a place, in WGS 84
PROJECTED = ("x", "easting"), ("y", "northing")  # and in the map's CRS


@dataclass(frozen=True)
class Source:
    """Where classes are read from.

    Args:
        path: the file.
        layer: of the file; "" for its only one.
        attribute: the field with the class; None for one with a usual name.
    """

    path: str
    layer: str
    attribute: str | None

    def quoted(self, layer: str) -> str:
        """What to type for a layer: Hydra's quotes within the shell's, because of the "="."""
        return shlex.quote(f'reference="{self.path}{LAYER}{layer}"')


def compare_features(scene: ClassMap, dataset: Any, source: Source) -> Samples:
    """The samples of an open vector file; of a CSV without geometries, by the columns that say where its points are.

    Args:
        scene: the map.
        dataset: the file, an open gdal.Dataset.
        source: where in the file the classes stand.

    Raises:
        UserError: for a layer, field or class that is not there, or features that are neither points nor polygons.
    """
    first = dataset.GetLayer(0)
    ogr = import_gdal(source.path, "ogr")
    if dataset.GetDriver().ShortName != "CSV" or first.GetGeomType() != ogr.wkbNone:
        return _compare_layer(scene, dataset, source)
    columns = _field_names(first)
    for axes in (DEGREES, PROJECTED):
        pair = [next((c for c in columns if c.strip().lower() in usual), None) for usual in axes]
        if None not in pair:
            break
    else:
        raise UserError(
            f"{source.path} does not say where its points are; it has the columns {', '.join(columns)}: call two of "
            "them lon "
            "and lat (degrees, WGS 84), or x and y (in the map's CRS), and type reference=FILE"
        )
    options = [f"X_POSSIBLE_NAMES={pair[0]}", f"Y_POSSIBLE_NAMES={pair[1]}", "KEEP_GEOM_COLUMNS=NO"]
    dataset = open_dataset(source.path, "reference", options=options)
    samples = _compare_layer(scene, dataset, source, 4326 if axes is DEGREES else 0)
    crs = "the map's CRS; call degrees lon and lat"
    meaning = "degrees in WGS 84 (EPSG:4326)" if axes is DEGREES else f"coordinates in {crs}"
    samples.notes.insert(0, f"The columns {pair[0]} and {pair[1]} of {source.path} were taken to be {meaning}.")
    return samples


def _compare_layer(scene: ClassMap, dataset: Any, source: Source, code: int | None = None) -> Samples:
    """code: the EPSG code of the coordinates, 0 for the map's CRS; None: as the file says."""
    gdal = import_gdal(source.path)
    layer = _layer(dataset, source)
    index = _field(layer, source)
    samples = Samples.of(scene, "features")
    samples.field = _field_names(layer)[index]
    transform = None if code == 0 else _transformation(scene, layer, source.path, samples, code)
    inverse = gdal.InvGeoTransform(scene.geotransform)
    kinds, points, classes = set(), list[tuple[float, float, int]](), dict[Any, int]()
    for feature in layer:
        geometry, value = feature.GetGeometryRef(), feature.GetField(index)
        if value is None or not str(value).strip():
            samples.unlabelled += 1
            continue
        if geometry is None or geometry.IsEmpty():
            samples.unplaced += 1
            continue
        if value not in classes:
            classes[value] = scene.class_of(value, f"{source.path}, field {samples.field}")
        kind, parts = _parts(geometry, f"{source.path}, feature {feature.GetFID()}")
        kinds.add(kind)
        for part in parts:
            if transform is not None and not _transformed(part, transform):
                samples.outside += 1  # where the map's projection has no place for it
            elif kind == "polygons":
                samples.add(_polygon(scene, part, inverse), classes[value])
            else:
                points.append((*gdal.ApplyGeoTransform(inverse, part.GetX(), part.GetY()), classes[value]))
    for x, y, truth in sorted(points, key=lambda p: (p[1] // 256, p[0] // 256)):  # so that GDAL decodes a block once
        samples.add(_pixel(scene, x, y), truth)
    samples.kind = " and ".join(sorted(kinds, reverse=True)) or samples.kind
    return samples


def _layer(dataset: Any, source: Source) -> Any:
    """The source's layer."""
    names = [dataset.GetLayer(i).GetName() for i in range(dataset.GetLayerCount())]
    path, name = source.path, source.layer
    if name and name not in names:
        close = nearest(name, names) or names[0]
        raise UserError(f"{path} has no layer {name!r}, only {', '.join(names)}: type {source.quoted(close)}")
    if not name and len(names) > 1:
        listed = f"{len(names)} layers ({', '.join(names)})"
        raise UserError(f"{path} has {listed}: type for example {source.quoted(names[0])}")
    return dataset.GetLayerByName(name) if name else dataset.GetLayer(0)


def _field_names(layer: Any) -> list[str]:
    definition = layer.GetLayerDefn()
    return [definition.GetFieldDefn(i).GetName() for i in range(definition.GetFieldCount())]


def _field(layer: Any, source: Source) -> int:
    """The index of the field that holds the class."""
    names, path, wanted = _field_names(layer), source.path, source.attribute
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
    raise UserError(f"{path} has no field {missing}; its fields are {', '.join(names)}: type for example field={close}")


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
        f"{where} is a {straight.GetGeometryName().lower()}; points and polygons can be compared: "
        "leave the others out of the file, ogr2ogr -where"
    )


def _transformation(scene: ClassMap, layer: Any, path: str, samples: Samples, code: int | None) -> Any:
    """From the layer's CRS, or that of an EPSG code, to the map's; None where they are the same, or one is not
    known.
    """
    osr = import_gdal(path, "osr")
    source = layer.GetSpatialRef()
    if code is not None:
        source = osr.SpatialReference()
        source.ImportFromEPSG(code)
    if not samples.both_have_crs(scene, path, source is not None):
        return None
    source, target = source.Clone(), osr.SpatialReference(wkt=scene.projection)
    for srs in (source, target):
        srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    try:
        return None if source.IsSame(target) else osr.CoordinateTransformation(source, target)
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be brought into the CRS of {scene.path} ({error}): type ogr2ogr -t_srs"
        ) from error


def _transformed(geometry: Any, transform: Any) -> bool:
    """Transforms a geometry in place; False where the projection has no such place."""
    try:
        done = geometry.Transform(transform) == 0
    except RuntimeError:
        return False
    return done and all(np.isfinite(geometry.GetEnvelope()))


def _pixel(scene: ClassMap, x: float, y: float) -> int | None:
    """The map's class at fractional pixel coordinates."""
    h, w = scene.shape
    return int(scene.read(int(x), int(y), 1, 1)[0, 0]) if 0 <= x < w and 0 <= y < h else None


def _polygon(scene: ClassMap, geometry: Any, inverse: tuple[float, ...]) -> int | None:
    """The map's class of a polygon in the map's CRS: that of most pixels whose centre lies inside."""
    gdal, ogr, osr = (import_gdal(scene.path, module) for module in ("gdal", "ogr", "osr"))
    left, right, low, high = geometry.GetEnvelope()
    corners = np.array([gdal.ApplyGeoTransform(inverse, x, y) for x in (left, right) for y in (low, high)])
    (x0, y0), (x1, y1) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, scene.shape[1]), min(y1, scene.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    memory = ogr.GetDriverByName("Memory").CreateDataSource("")
    layer = memory.CreateLayer("", osr.SpatialReference(wkt=scene.projection) if scene.projection else None)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(geometry)
    layer.CreateFeature(feature)
    counts, inside = np.zeros(len(scene.values), np.int64), 0
    for window in scene.windows(int(x0), int(y0), int(x1 - x0), int(y1 - y0)):
        burnt = empty_raster(scene, window, gdal.GDT_Byte, scene.projection)
        gdal.RasterizeLayer(burnt, [1], layer, burn_values=[1])
        mapped = scene.read(*window)
        mapped = mapped[np.frombuffer(burnt.ReadRaster(), np.uint8).reshape(mapped.shape) > 0]
        inside += len(mapped)
        counts += np.bincount(mapped[mapped >= 0], minlength=len(counts))
    if inside:
        return int(counts.argmax()) if counts.any() else -1
    try:
        place = geometry.PointOnSurface()
    except RuntimeError:  # GEOS minds crossing edges
        place = geometry.Centroid()
    return _pixel(scene, *gdal.ApplyGeoTransform(inverse, place.GetX(), place.GetY()))
