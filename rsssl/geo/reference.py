"""A class map against reference points, polygons or a raster: the confusion matrix that accuracy is estimated from."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as made_by
from typing import Any

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.errors import UserError, nearest
from rsssl.geo.class_map import ClassMap, distinct, numbers, open_dataset, windows

FIELDS = ("class", "class_name", "classname", "label", "name", "category", "landcover", "land_cover")
LAYER = "|layername="  # as QGIS writes a layer of a file
DEGREES = ("lon", "long", "longitude"), ("lat", "latitude")  # columns of a CSV that hold a place, in WGS 84
PROJECTED = ("x", "easting"), ("y", "northing")  # and in the map's CRS


@dataclass
class Samples:
    """What comparing gave: `counts` (K, K) int64, rows the map's classes, columns the reference's."""

    counts: np.ndarray
    kind: str  # what one sample is: "points", "polygons", "points and polygons" or "pixels"
    outside: int = 0  # left out: beyond the map (of a raster: pixels of the map where the reference has nothing)
    nodata: int = 0  # left out: the map is nodata there
    unlabelled: int = 0  # left out: no class in the reference
    unplaced: int = 0  # left out: no geometry in the reference
    field: str | None = None  # the attribute that was read
    notes: list[str] = made_by(default_factory=list)


def compare(scene: ClassMap, reference: str, attribute: str | None = None) -> Samples:
    """The samples of a reference file: points, polygons or a raster, in any CRS.

    * A point is compared with the pixel that holds it (a pixel holds its left and upper edge).
    * A polygon is one sample, not one for each pixel: its pixels were labelled by one look at one place and mostly err
      together, so that counted singly they would make confidence intervals far too narrow. Its class in the map is that of most
      of the map's pixels whose centre lies inside (a tie: the lower number); where it holds no centre, the pixel under it.
    * A raster is brought onto the map's grid by nearest neighbour; every pixel valid in both is a sample.

    Args:
        reference: the file; a layer of several as FILE|layername=LAYER.
        attribute: the field with the class; None: a field with a usual name (`FIELDS`).

    Raises:
        UserError: for a file, layer, field or class that is not there, or when nothing can be compared.
    """
    path, _, layer = reference.partition(LAYER)
    dataset = open_dataset(path, "reference")
    if dataset.GetLayerCount() == 0:
        found = _raster(scene, dataset, path)
    elif (
        dataset.GetDriver().ShortName == "CSV" and dataset.GetLayer(0).GetGeomType() == import_gdal(path, "ogr").wkbNone
    ):
        found = _table(scene, dataset, path, layer, attribute)
    else:
        found = _vector(scene, dataset, path, layer, attribute)
    if found.counts.sum() == 0:
        taken = "".join(f" {note}" for note in found.notes if found.kind != "pixels")  # how coordinates were understood
        raise UserError(
            f"{path} has nothing to compare with {scene.path}: {found.outside} {found.kind} lie outside it, {found.nodata} where "
            f"it is nodata, {found.unlabelled} have no class, {found.unplaced} no geometry.{taken} Check both with "
            "gdalinfo and ogrinfo, then type reference=FILE"
        )
    return found


def _layer(dataset: Any, path: str, name: str) -> Any:
    names = [dataset.GetLayer(i).GetName() for i in range(dataset.GetLayerCount())]
    if name and name not in names:
        close = nearest(name, names) or names[0]
        raise UserError(f"{path} has no layer {name!r}, only {', '.join(names)}: type {_quoted(path, close)}")
    if not name and len(names) > 1:
        raise UserError(
            f"{path} has {len(names)} layers ({', '.join(names)}): type for example {_quoted(path, names[0])}"
        )
    return dataset.GetLayerByName(name) if name else dataset.GetLayer(0)


def _quoted(path: str, layer: str) -> str:
    return shlex.quote(f'reference="{path}{LAYER}{layer}"')  # Hydra's quotes within the shell's, because of the "="


def _field(layer: Any, path: str, wanted: str | None) -> int:
    """The index of the field that holds the class."""
    definition = layer.GetLayerDefn()
    names = [definition.GetFieldDefn(i).GetName() for i in range(definition.GetFieldCount())]
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


def _table(scene: ClassMap, dataset: Any, path: str, name: str, wanted: str | None) -> Samples:
    """A CSV of points, by the columns that say where they are."""
    definition = dataset.GetLayer(0).GetLayerDefn()
    columns = [definition.GetFieldDefn(i).GetName() for i in range(definition.GetFieldCount())]
    for axes in (DEGREES, PROJECTED):
        pair = [next((c for c in columns if c.strip().lower() in usual), None) for usual in axes]
        if None not in pair:
            break
    else:
        raise UserError(
            f"{path} does not say where its points are; it has the columns {', '.join(columns)}: call two of them lon and lat "
            "(degrees, WGS 84), or x and y (in the map's CRS), and type reference=FILE"
        )
    options = [f"X_POSSIBLE_NAMES={pair[0]}", f"Y_POSSIBLE_NAMES={pair[1]}", "KEEP_GEOM_COLUMNS=NO"]
    degrees = axes is DEGREES
    found = _vector(scene, open_dataset(path, "reference", options=options), path, name, wanted, 4326 if degrees else 0)
    taken = "degrees in WGS 84 (EPSG:4326)" if degrees else "coordinates in the map's CRS; call degrees lon and lat"
    found.notes.insert(0, f"The columns {pair[0]} and {pair[1]} of {path} were taken to be {taken}.")
    return found


def _vector(
    scene: ClassMap, dataset: Any, path: str, name: str, wanted: str | None, code: int | None = None
) -> Samples:
    """code: the EPSG code of the coordinates, 0 for the map's CRS; None: as the file says."""
    gdal = import_gdal(path)
    layer = _layer(dataset, path, name)
    index = _field(layer, path, wanted)
    found = Samples(np.zeros((len(scene.values),) * 2, np.int64), "features")
    found.field = layer.GetLayerDefn().GetFieldDefn(index).GetName()
    transform = None if code == 0 else _transformation(scene, layer, path, found, code)
    inverse = gdal.InvGeoTransform(scene.geotransform)
    kinds, points, classes = set(), list[tuple[float, float, int]](), dict[Any, int]()
    for feature in layer:
        geometry, value = feature.GetGeometryRef(), feature.GetField(index)
        if value is None or not str(value).strip():
            found.unlabelled += 1
            continue
        if geometry is None or geometry.IsEmpty():
            found.unplaced += 1
            continue
        if value not in classes:
            classes[value] = scene.class_of(value, f"{path}, field {found.field}")
        kind, parts = _parts(geometry, f"{path}, feature {feature.GetFID()}")
        kinds.add(kind)
        for part in parts:
            if transform is not None and not _transformed(part, transform):
                found.outside += 1  # where the map's projection has no place for it
            elif kind == "polygons":
                _count(found, _polygon(scene, part, inverse), classes[value])
            else:
                points.append((*gdal.ApplyGeoTransform(inverse, part.GetX(), part.GetY()), classes[value]))
    for x, y, truth in sorted(points, key=lambda p: (p[1] // 256, p[0] // 256)):  # so that GDAL decodes a block once
        _count(found, _pixel(scene, x, y), truth)
    found.kind = " and ".join(sorted(kinds, reverse=True)) or found.kind
    return found


def _parts(geometry: Any, where: str) -> tuple[str, list[Any]]:
    """Copies of what counts as one sample each: every point of several; all parts of a polygon together."""
    ogr = import_gdal(where, "ogr")
    straight = geometry.GetLinearGeometry()  # without arcs; a copy
    flat = ogr.GT_Flatten(straight.GetGeometryType())
    if flat == ogr.wkbPoint:
        return "points", [straight]
    if flat == ogr.wkbMultiPoint:
        return "points", [straight.GetGeometryRef(i).Clone() for i in range(straight.GetGeometryCount())]
    if flat in (ogr.wkbPolygon, ogr.wkbMultiPolygon):
        return "polygons", [straight]
    raise UserError(
        f"{where} is a {straight.GetGeometryName().lower()}; points and polygons can be compared: "
        "leave the others out of the file, ogr2ogr -where"
    )


def _transformation(scene: ClassMap, layer: Any, path: str, found: Samples, code: int | None) -> Any:
    """From the layer's CRS, or that of an EPSG code, to the map's; None where they are the same, or one is not known."""
    osr = import_gdal(path, "osr")
    source = layer.GetSpatialRef()
    if code is not None:
        source = osr.SpatialReference()
        source.ImportFromEPSG(code)
    if not _both(scene, source is not None, path, found):
        return None
    source, target = source.Clone(), osr.SpatialReference(wkt=scene.projection)
    for one in (source, target):
        one.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    try:
        return None if source.IsSame(target) else osr.CoordinateTransformation(source, target)
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be brought into the CRS of {scene.path} ({error}): type ogr2ogr -t_srs"
        ) from error


def _both(scene: ClassMap, has_crs: bool, path: str, found: Samples) -> bool:
    """Whether both sides have a CRS; notes it where one has none."""
    if has_crs and scene.projection:
        return True
    found.notes.append(
        f"{scene.path if has_crs else path} has no CRS: its coordinates are taken to be those of the other file."
    )
    return False


def _transformed(geometry: Any, transform: Any) -> bool:
    try:
        done = geometry.Transform(transform) == 0
    except RuntimeError:
        return False
    return done and all(np.isfinite(geometry.GetEnvelope()))


def _count(found: Samples, seen: int | None, truth: int) -> None:
    """seen: the map's class, -1 for nodata, None for outside."""
    if seen is None:
        found.outside += 1
    elif seen < 0:
        found.nodata += 1
    else:
        found.counts[seen, truth] += 1


def _pixel(scene: ClassMap, x: float, y: float) -> int | None:
    """The map's class at fractional pixel coordinates."""
    h, w = scene.shape
    if not (0 <= x < w and 0 <= y < h):
        return None
    return int(scene.read(int(x), int(y), 1, 1)[0, 0])


def _polygon(scene: ClassMap, geometry: Any, inverse: tuple[float, ...]) -> int | None:
    """The map's class of a polygon in the map's CRS: what most pixels are whose centre lies inside."""
    gdal, ogr, osr = (import_gdal(scene.path, module) for module in ("gdal", "ogr", "osr"))
    left, right, low, high = geometry.GetEnvelope()
    corners = np.array([gdal.ApplyGeoTransform(inverse, x, y) for x in (left, right) for y in (low, high)])
    (x0, y0), (x1, y1) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, scene.shape[1]), min(y1, scene.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    srs = osr.SpatialReference(wkt=scene.projection) if scene.projection else None
    memory = ogr.GetDriverByName("Memory").CreateDataSource("")
    layer = memory.CreateLayer("", srs)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(geometry)
    layer.CreateFeature(feature)
    counts, inside = np.zeros(len(scene.values), np.int64), 0
    for x, y, w, h in windows(int(y1 - y0), int(x1 - x0), int(x0), int(y0)):
        burnt = _memory(gdal, scene, x, y, w, h, gdal.GDT_Byte, scene.projection)
        gdal.RasterizeLayer(burnt, [1], layer, burn_values=[1])
        chosen = np.frombuffer(burnt.ReadRaster(), np.uint8).reshape(h, w) > 0
        seen = scene.read(x, y, w, h)[chosen]
        inside += len(seen)
        counts += np.bincount(seen[seen >= 0], minlength=len(counts))
    if inside:
        return int(counts.argmax()) if counts.any() else -1
    try:
        place = geometry.PointOnSurface()
    except RuntimeError:  # GEOS minds crossing edges
        place = geometry.Centroid()
    return _pixel(scene, *gdal.ApplyGeoTransform(inverse, place.GetX(), place.GetY()))


def _memory(gdal: Any, scene: ClassMap, x: int, y: int, w: int, h: int, kind: int, projection: str) -> Any:
    """An empty raster in memory on a window of the map's grid."""
    made = gdal.GetDriverByName("MEM").Create("", w, h, 1, kind)
    start = gdal.ApplyGeoTransform(scene.geotransform, x, y)
    made.SetGeoTransform((start[0], *scene.geotransform[1:3], start[1], *scene.geotransform[4:6]))
    made.SetProjection(projection)
    return made


def _raster(scene: ClassMap, dataset: Any, path: str) -> Samples:
    gdal = import_gdal(path)
    k = len(scene.values)
    found = Samples(np.zeros((k, k), np.int64), "pixels")
    found.notes.append(
        "Every pixel counts as an independent sample, which neighbours are not: the intervals are too narrow."
    )
    known = _both(scene, bool(dataset.GetProjection()), path, found)
    if dataset.RasterCount > 1:
        found.notes.append(f"{path} has {dataset.RasterCount} bands: the first was compared.")
        dataset = gdal.Translate("", dataset, format="VRT", bandList=[1])
    if not known:
        dataset = gdal.Translate("", dataset, format="VRT")
        dataset.SetProjection("")
    names = {i: n for i, n in enumerate(dataset.GetRasterBand(1).GetCategoryNames() or []) if n.strip()}
    classes: dict[int, int] = {}
    for x, y, w, h in windows(*scene.shape):
        grid = _memory(gdal, scene, x, y, w, h, gdal.GDT_Float64, scene.projection if known else "")
        grid.GetRasterBand(1).SetNoDataValue(float("nan"))
        grid.GetRasterBand(1).Fill(float("nan"))
        gdal.Warp(grid, dataset, resampleAlg="near", errorThreshold=0)
        values, valid = numbers(grid.GetRasterBand(1), 0, 0, w, h)
        seen = scene.read(x, y, w, h)
        found.nodata += int((valid & (seen < 0)).sum())
        found.outside += int((~valid & (seen >= 0)).sum())
        valid &= seen >= 0
        present = distinct(values[valid])
        _resolve(scene, present, names, classes, path)
        truth = np.array([classes[int(v)] for v in present], np.int64)[np.searchsorted(present, values[valid])]
        found.counts += np.bincount(seen[valid] * k + truth, minlength=k * k).reshape(k, k)
    return found


def _resolve(
    scene: ClassMap, present: Iterable[int], names: dict[int, str], classes: dict[int, int], path: str
) -> None:
    """Adds to `classes` those of the values of a reference raster: by category name, or by number where it names none."""
    for value in map(int, present):
        if value in classes:
            continue
        if value in names:
            classes[value] = scene.class_of(names[value], f"{path}, value {value}")
        elif value in scene.values:
            classes[value] = int(np.searchsorted(scene.values, value))
        else:
            raise UserError(
                f"{path} has the value {value}, which no class of {scene.path} has ({', '.join(map(str, scene.values[:30]))}): "
                f"where it means no class, type gdal_translate -a_nodata {value} {shlex.quote(path)} OUT.tif "
                "and reference=OUT.tif"
            )
