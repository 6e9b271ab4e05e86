"""A class map against reference points, polygons or a raster: the confusion matrix that accuracy is estimated from."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from rsssl.data.grid import told
from rsssl.data.raster import import_gdal
from rsssl.errors import UserError
from rsssl.geo.class_map import ClassMap, brought_onto, category_names, distinct, empty_raster, numbers
from rsssl.geo.samples import Samples
from rsssl.geo.vectors import VectorFile, inside, place_in


def compare(scene: ClassMap, reference: str, attribute: str | None = None) -> Samples:
    """The samples of a reference file: points, polygons or a raster, in any CRS.

    * A point is compared with the pixel that holds it (a pixel holds its left and upper edge).
    * A polygon is one sample, not one for each pixel: its pixels were labelled by one look at one place and are mostly
      wrong together, so that counting each would make confidence intervals far too narrow. Its class in the map is that
      of most of the map's pixels whose centre lies inside (a tie: the lower number); where it holds no centre, the
      pixel under it.
    * A raster is brought onto the map's grid by nearest neighbour; every pixel valid in both is a sample.

    Args:
        scene: the map.
        reference: the file; a layer of several as FILE|layername=LAYER.
        attribute: the field with the class; None: a field with a usual name (`rsssl.geo.vectors.FIELDS`).

    Raises:
        UserError: for a file, layer, field or class that is not there, or when nothing can be compared.
    """
    file = VectorFile(reference, attribute)
    path = file.path
    with told(path, "reference= with another file"):
        samples = _compare_raster(scene, file.raster, path) if file.is_raster else _compare_features(scene, file)
    if samples.counts.sum() == 0:
        notes = "".join(f" {note}" for note in samples.notes if samples.kind != "pixels")  # how coordinates were read
        raise UserError(
            f"{path} has nothing to compare with {scene.path}: {samples.outside} {samples.kind} lie outside it, "
            f"{samples.nodata} where it is nodata, {samples.unlabelled} have no class, {samples.unplaced} no geometry."
            f"{notes} Look at both in QGIS, then type reference=FILE"
        )
    return samples


def _compare_features(scene: ClassMap, file: VectorFile) -> Samples:
    """Every point and polygon."""
    gdal = import_gdal(file.path)
    samples = Samples.of(scene, "features")
    samples.field, samples.notes = file.field, list(file.notes)
    projection = ""
    if not file.in_raster_crs and samples.both_have_crs(scene, file.path, file.reference() is not None):
        projection = scene.projection
    inverse = gdal.InvGeoTransform(scene.geotransform)
    kinds, points, classes = set(), list[tuple[float, float, int]](), dict[Any, int]()
    for feature in file.features(projection):
        if feature.value is None:
            samples.unlabelled += 1
            continue
        if not feature.kind:
            samples.unplaced += 1
            continue
        if feature.value not in classes:
            classes[feature.value] = scene.class_of(feature.value, f"{file.path}, field {samples.field}")
        kinds.add(feature.kind)
        for part in feature.parts:
            if part is None:
                samples.outside += 1  # where the map's projection has no place for it
            elif feature.kind == "polygons":
                samples.add(_polygon(scene, part, inverse), classes[feature.value])
            else:
                at = gdal.ApplyGeoTransform(inverse, part.GetX(), part.GetY())
                points.append((*at, classes[feature.value]))
    for x, y, truth in sorted(points, key=lambda p: (p[1] // 256, p[0] // 256)):  # so that GDAL decodes a block once
        samples.add(_pixel(scene, x, y), truth)
    samples.kind = " and ".join(sorted(kinds, reverse=True)) or samples.kind
    return samples


def _pixel(scene: ClassMap, x: float, y: float) -> int | None:
    """The map's class at fractional pixel coordinates."""
    h, w = scene.shape
    return int(scene.read(int(x), int(y), 1, 1)[0, 0]) if 0 <= x < w and 0 <= y < h else None


def _polygon(scene: ClassMap, geometry: Any, inverse: tuple[float, ...]) -> int | None:
    """The map's class of a polygon in the map's CRS: that of most pixels whose centre lies inside."""
    gdal = import_gdal(scene.path)
    left, right, low, high = geometry.GetEnvelope()
    corners = np.array([gdal.ApplyGeoTransform(inverse, x, y) for x in (left, right) for y in (low, high)])
    (x0, y0), (x1, y1) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, scene.shape[1]), min(y1, scene.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    counts, n_inside = np.zeros(len(scene.values), np.int64), 0
    for window in scene.windows(int(x0), int(y0), int(x1 - x0), int(y1 - y0)):
        mapped = scene.read(*window)[inside(geometry, scene.projection, scene.part_of(*window[:2]), *window[2:])]
        n_inside += len(mapped)
        counts += np.bincount(mapped[mapped >= 0], minlength=len(counts))
    if n_inside:
        return int(counts.argmax()) if counts.any() else -1
    return _pixel(scene, *gdal.ApplyGeoTransform(inverse, *place_in(geometry)))


def _compare_raster(scene: ClassMap, dataset: Any, path: str) -> Samples:
    """Every pixel of the map that is valid in both."""
    gdal = import_gdal(path)
    k = len(scene.values)
    samples = Samples.of(scene, "pixels")
    samples.notes.append(
        "Every pixel counts as an independent sample, which neighbours are not: the intervals are too narrow."
    )
    placed = samples.both_have_crs(scene, path, bool(dataset.GetProjection()))
    if dataset.RasterCount > 1:
        samples.notes.append(f"{path} has {dataset.RasterCount} bands: the first was compared.")
    if dataset.RasterCount > 1 or not placed:
        dataset = gdal.Translate("", dataset, format="VRT", bandList=[1])
    if not placed:
        dataset.SetProjection("")
    names = category_names(dataset.GetRasterBand(1))
    classes: dict[int, int] = {}
    for window in scene.windows():
        grid = empty_raster(scene, window, gdal.GDT_Float64, scene.projection if placed else "")
        band = grid.GetRasterBand(1)
        band.SetNoDataValue(float("nan"))
        band.Fill(float("nan"))
        brought_onto(grid, dataset, path)
        values, valid = numbers(band, 0, 0, *window[2:], path)
        mapped = scene.read(*window)
        samples.nodata += int((valid & (mapped < 0)).sum())
        samples.outside += int((~valid & (mapped >= 0)).sum())
        valid &= mapped >= 0
        present = distinct(values[valid])
        for value in map(int, present):
            if value not in classes:
                classes[value] = _class_of(scene, value, names, path)
        truth = np.array([classes[int(v)] for v in present], np.int64)[np.searchsorted(present, values[valid])]
        samples.counts += np.bincount(mapped[valid] * k + truth, minlength=k * k).reshape(k, k)
    return samples


def _class_of(scene: ClassMap, value: int, names: dict[int, str], path: str) -> int:
    """The class of a value of a reference raster: by category name, or by number where it names none."""
    if value in names:
        return scene.class_of(names[value], f"{path}, value {value}")
    if value in scene.values:
        return int(np.searchsorted(scene.values, value))
    raise UserError(
        f"{path} has the value {value}, which no class of {scene.path} has ({', '.join(map(str, scene.values[:30]))}): "
        f"where it means no class, type gdal_translate -a_nodata {value} {shlex.quote(path)} OUT.tif and "
        "reference=OUT.tif"
    )
