"""From labels on the ground, points, polygons or a class raster, to labelled windows of scenes."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rsssl.data.grid import below
from rsssl.data.raster import import_gdal
from rsssl.data.scene_file import SceneFile
from rsssl.data.scene_windows import Label, lattice
from rsssl.errors import UserError, nearest
from rsssl.geo.class_map import brought_onto, category_names, numbers
from rsssl.geo.extents import of_labels, of_scene
from rsssl.geo.laying import Cut, geotransform_of, overlap, placement, starts, thinned
from rsssl.geo.vectors import VectorFile, inside, place_in

log = logging.getLogger(__name__)
MOST = 100  # windows of one polygon
WHOLE = 1 << 24  # pixels around a polygon that is drawn whole
LISTED = 5  # labels that a message names
TEST = "dataset.test"  # the key of the user's own test set


class Placed(NamedTuple):
    """A point or polygon on a scene.

    Args:
        scene: number of the scene.
        name: of its class.
        geometry: in the scene's CRS.
        where: it comes from, for messages.
        feature: its number, as its windows have it.
    """

    scene: int
    name: str
    geometry: Any
    where: str
    feature: int


@dataclass
class Labels:
    """The labelled windows of some scenes, as they are found.

    Args:
        scenes: the rasters.
        cut: how windows are laid.
        classes: their names, in order; None for those that the files name, sorted.
    """

    scenes: Sequence[SceneFile]
    cut: Cut
    classes: Sequence[str] | None = None
    windows: list[tuple[Label, str]] = field(default_factory=list, init=False)
    drawn: list[Placed] = field(default_factory=list, init=False)
    _groups: dict[tuple[str, int, int], int] = field(default_factory=dict, init=False)  # of points and polygons

    def add(self, path: str, attribute: str | None, key: str) -> VectorFile:
        """Adds the labels of a file, of which `key` names the setting: "dataset.labels" or TEST.

        Raises:
            UserError: for a file without a label on any of the scenes, saying why that may be.
        """
        file = VectorFile(path, attribute, key, "dataset.field")
        before = len(self.windows)
        if file.is_raster:
            refuse_bands(file)
            for number in range(len(self.scenes)):
                self._from_raster(number, file)
        else:
            self._from_features(file)
        for note in file.notes:
            log.info("%s", note)
        if len(self.windows) == before:
            raise UserError(self._why_none(file))
        return file

    def finished(self) -> tuple[list[Label], tuple[str, ...]]:
        """The labels with the numbers of their classes, each window once, and the classes.

        Raises:
            UserError: for one class, or where two classes are given to one place.
        """
        self._refuse_conflicts()
        names = {name for _, name in self.windows}
        classes = tuple(self.classes or sorted(names))
        if len(names) < 2:
            raise UserError(
                f"all labels are of the class {next(iter(names))}, and a classifier tells at least two apart: draw "
                "labels of another class too"
            )
        found: dict[tuple[int, int, int], Label] = {}
        for label, name in self.windows:
            label = label._replace(label=classes.index(name))
            place = label[:3]
            known = found.get(place)
            if known and known.label != label.label:
                raise UserError(
                    f"the classes {classes[known.label]} and {name} are both given to one window of "
                    f"{self.scenes[label.scene].name} (row {label.row}, column {label.col}): remove one of the labels"
                )
            if not known or label.own_test:
                found[place] = label
        return list(found.values()), classes

    def name_of(self, value: Any, where: str) -> str:
        """The class that a label calls `value`."""
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if self.classes is None or text in self.classes:
            return text
        alike = [c for c in self.classes if c.casefold() == text.casefold()]
        if alike:
            return alike[0]
        close = nearest(text, self.classes)
        raise UserError(
            f"{where}: the class {text!r} is not in dataset.classes={list(self.classes)}: "
            + (f"write {close!r} there" if close else "add it there, or leave dataset.classes out")
        )

    def _from_features(self, file: VectorFile) -> None:
        count: Counter[str] = Counter()
        placed: set[int] = set()
        for number, scene in enumerate(self.scenes):
            for feature in file.features(placement(scene, file)):
                if feature.value is None or not feature.kind:
                    count["without a class" if feature.value is None else "without a geometry"] += number == 0
                    continue
                where = f"{file.path}, feature {feature.number}"
                name = self.name_of(feature.value, where)
                for part, geometry in enumerate(feature.parts):
                    if geometry is None:
                        continue
                    at = self._laid(scene, geometry, feature.kind)
                    group = self._groups.setdefault((file.path, feature.number, part), len(self._groups))
                    if at:
                        placed.add(feature.number)
                        self.drawn.append(Placed(number, name, geometry, where, group))
                    self.windows += [(Label(number, row, col, -1, group, file.key == TEST), name) for row, col in at]
                if number == 0:
                    count["features"] += 1
        lost = count["features"] - len(placed)
        for n, what in ((lost, "outside the scenes"), *((count[w], w) for w in count if w.startswith("without"))):
            if n:
                lie = "feature lies" if n == 1 else "features lie"
                log.warning("%s: %d %s %s: left out", file.path, n, lie, what)

    def _laid(self, scene: SceneFile, geometry: Any, kind: str) -> list[tuple[int, int]]:
        """First row and column of the windows on a point, or in a polygon."""
        if kind == "points":
            at = self._around(scene, geometry.GetX(), geometry.GetY())
            return [at] if at else []
        gdal = import_gdal(scene.path)
        inverse = gdal.InvGeoTransform(geotransform_of(scene))
        left, right, low, high = geometry.GetEnvelope()
        corners = np.array([gdal.ApplyGeoTransform(inverse, x, y) for x in (left, right) for y in (low, high)])
        (x0, y0), (x1, y1) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
        h, w = scene.size
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, w), min(y1, h)
        if x0 >= x1 or y0 >= y1:
            return []
        filled = self._filled(scene, geometry, (y0, y1), (x0, x1))
        if len(filled) > MOST:
            filled = filled[np.rint(np.linspace(0, len(filled) - 1, MOST)).astype(int)]
        if len(filled):
            return [(int(y), int(x)) for y, x in filled]
        around = self._around(scene, *place_in(geometry))
        return [around] if around else []

    def _filled(self, scene: SceneFile, geometry: Any, rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
        """(n, 2) first rows and columns of the windows that a polygon within these pixels fills."""
        window, (h, w) = self.cut.window, scene.size
        ys, xs = (starts(first, last, n, self.cut) for (first, last), n in ((rows, h), (cols, w)))
        if not len(ys) or not len(xs):
            return np.empty((0, 2), int)
        if (ys[-1] - ys[0] + window) * (xs[-1] - xs[0] + window) > WHOLE:
            return self._filled_one_by_one(scene, geometry, thinned(ys), thinned(xs))
        top, left = int(ys[0]), int(xs[0])
        part = int(ys[-1]) - top + window, int(xs[-1]) - left + window
        mask = inside(geometry, scene.grid.projection, below(geotransform_of(scene), left, top), part[1], part[0])
        sums = np.pad(mask.cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
        a, b = ys - top, xs - left
        count = sums[a + window][:, b + window] - sums[a][:, b + window] - sums[a + window][:, b] + sums[a][:, b]
        row, col = np.nonzero(count >= self.cut.inside * window**2)
        return np.stack([ys[row], xs[col]], 1)

    def _filled_one_by_one(self, scene: SceneFile, geometry: Any, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """The same of a polygon that is too large to be drawn whole, of few windows."""
        window, transform, projection = self.cut.window, geotransform_of(scene), scene.grid.projection
        found = [
            (y, x)
            for y in ys
            for x in xs
            if inside(geometry, projection, below(transform, x, y), window, window).mean() >= self.cut.inside
        ]
        return np.array(found, int).reshape(-1, 2)

    def _around(self, scene: SceneFile, x: float, y: float) -> tuple[int, int] | None:
        """The window whose middle is nearest to a place, and that lies inside the scene; None for a place outside."""
        gdal, (h, w), window = import_gdal(scene.path), scene.size, self.cut.window
        col, row = gdal.ApplyGeoTransform(gdal.InvGeoTransform(geotransform_of(scene)), x, y)
        if not (0 <= col < w and 0 <= row < h):
            return None
        top, left = (min(max(round(at - window / 2), 0), n - window) for at, n in ((row, h), (col, w)))
        return top, left

    def _from_raster(self, number: int, file: VectorFile) -> None:
        """The windows of a scene that one class of a class raster fills, by nearest neighbour on the scene's grid."""
        gdal, scene, window = import_gdal(file.path), self.scenes[number], self.cut.window
        names, rows = category_names(file.raster.GetRasterBand(1)), dict[int, list[int]]()
        for _, row, col in lattice([scene.size], window, self.cut.stride, self.cut.most):
            rows.setdefault(row, []).append(col)
        for row, cols in rows.items():
            strip = gdal.GetDriverByName("MEM").Create("", scene.size[1], window, 1, gdal.GDT_Float64)
            strip.SetGeoTransform(below(geotransform_of(scene), 0, row))
            strip.SetProjection(scene.grid.projection)
            band = strip.GetRasterBand(1)
            band.SetNoDataValue(float("nan"))
            band.Fill(float("nan"))
            brought_onto(strip, file.raster, file.path, file.key)
            values, valid = numbers(band, 0, 0, scene.size[1], window, file.path)
            for col in cols:
                part = values[:, col : col + window][valid[:, col : col + window]]
                kinds, counts = np.unique(part, return_counts=True)
                if len(part) and counts.max() >= self.cut.inside * window**2:
                    value = int(kinds[counts.argmax()])
                    name = self.name_of(names.get(value, f"class {value}"), file.path)
                    self.windows.append((Label(number, row, col, -1, -1, file.key == TEST), name))

    def _refuse_conflicts(self) -> None:
        """Raises UserError where labels of two classes overlap."""
        drawn = sorted(self.drawn, key=lambda d: (d.scene, d.geometry.GetEnvelope()[0]))
        found = []
        for i, one in enumerate(drawn):
            _, right, low, high = one.geometry.GetEnvelope()
            for other in drawn[i + 1 :]:
                left, _, bottom, top = other.geometry.GetEnvelope()
                if other.scene != one.scene or left > right:
                    break
                near = bottom <= high and top >= low
                if other.name != one.name and near and overlap(one.geometry, other.geometry):
                    found.append(f"{one.where} ({one.name}) and {other.where.rsplit(', ', 1)[-1]} ({other.name})")
        if found:
            more = f" and {len(found) - LISTED} more pairs" if len(found) > LISTED else ""
            raise UserError(
                f"labels of two classes lie on one place: {'; '.join(found[:LISTED])}{more}. Which one is right? "
                "Remove the other, or cut it, and type the same again"
            )

    def _why_none(self, file: VectorFile) -> str:
        on = f"the scene {self.scenes[0].name}" if len(self.scenes) == 1 else f"any of the {len(self.scenes)} scenes"
        text = f"{file.path} has no label on {on}"
        if file.is_raster:
            return f"{text} whose class fills {100 * self.cut.inside:.0f} % of a window: type {file.key}=FILE"
        for scene in self.scenes:
            for feature in file.features(placement(scene, file), swapped=True):
                if any(part is not None and self._laid(scene, part, feature.kind) for part in feature.parts):
                    return (
                        f"{text}; with longitude and latitude swapped they lie on {scene.name}: swap them in the file, "
                        f"and type {file.key}=FILE"
                    )
        if file.reference() is None and not file.in_raster_crs:
            text += "; it names no CRS, so its coordinates were taken to be those of the scenes: give it one, ogr2ogr "
            text += "-a_srs"
        places = f"the labels lie at {of_labels(file)}; {self.scenes[0].name} at {of_scene(self.scenes[0])}"
        return f"{text}: {places}. Look at both in QGIS, and type {file.key}=FILE with labels of this place"


def refuse_bands(file: VectorFile) -> None:
    """Raises UserError for a raster of several bands, such as a scene, in place of a class raster."""
    gdal, raster = import_gdal(file.path), file.raster
    bands = [raster.GetRasterBand(i + 1).GetColorInterpretation() for i in range(raster.RasterCount)]
    if (n := sum(kind != gdal.GCI_AlphaBand for kind in bands)) > 1:
        raise UserError(
            f"{file.key}={file.path} has {n} bands, and a class raster has one: type {file.key}= with points, polygons "
            f"or a class raster; for the first band alone, gdal_translate -b 1 {shlex.quote(file.path)} OUT.tif"
        )
