"""A class map against reference points, polygons or a raster: the confusion matrix that accuracy is estimated from."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from rsssl.data.raster import import_gdal
from rsssl.errors import UserError
from rsssl.geo.class_map import ClassMap, category_names, distinct, empty_raster, numbers, open_dataset
from rsssl.geo.features import LAYER, Source, compare_features
from rsssl.geo.samples import Samples


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
        attribute: the field with the class; None: a field with a usual name (`rsssl.geo.features.FIELDS`).

    Raises:
        UserError: for a file, layer, field or class that is not there, or when nothing can be compared.
    """
    path, _, layer = reference.partition(LAYER)
    dataset = open_dataset(path, "reference")
    if dataset.GetLayerCount() == 0:
        samples = _compare_raster(scene, dataset, path)
    else:
        samples = compare_features(scene, dataset, Source(path, layer, attribute))
    if samples.counts.sum() == 0:
        notes = "".join(f" {note}" for note in samples.notes if samples.kind != "pixels")  # how coordinates were read
        raise UserError(
            f"{path} has nothing to compare with {scene.path}: {samples.outside} {samples.kind} lie outside it, "
            f"{samples.nodata} where it is nodata, {samples.unlabelled} have no class, {samples.unplaced} no geometry."
            f"{notes} Check both with gdalinfo and ogrinfo, then type reference=FILE"
        )
    return samples


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
        gdal.Warp(grid, dataset, resampleAlg="near", errorThreshold=0)
        values, valid = numbers(band, 0, 0, *window[2:])
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
