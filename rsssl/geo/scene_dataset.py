"""`dataset=scene`: windows of georeferenced scenes, of which points, polygons or a class raster label some."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.checks import text
from rsssl.data.dataset import Dataset
from rsssl.errors import UserError
from rsssl.geo.nodata import as_number, refuse_frame

if TYPE_CHECKING:
    from rsssl.data.prepared import Data
    from rsssl.data.scene_file import SceneFile
    from rsssl.data.scene_windows import Label, SceneCatalog
    from rsssl.geo.labels import Placed
    from rsssl.geo.write_vectors import Drawn

log = logging.getLogger(__name__)
WINDOW, FINE_WINDOW, FINE = 32, 64, 2.0  # pixels of a window, and of one where pixels are smaller than FINE metres
LEAST = 16  # pixels of a window that is made smaller for small polygons


@dataclass
class SceneDataset(Dataset):
    """Scenes in place of class folders; the other keys are those of `Dataset`.

    Args:
        scenes: a raster that GDAL opens, a folder of them, or a list; of one sensor, each in its own CRS.
        labels: files of points, polygons or class rasters in any CRS; None for no labels.
        field: the field of the labels that holds the class; None for one with a usual name.
        test: labels that only test; None to set a part of `labels` aside.
        window: pixels of a side; None: by the size of the pixels, and of the polygons that are the labels.
        stride: pixels from one window to the next; None: half a window.
        windows: without a label, at most.
        inside: share of a window that its polygon, or its class in a class raster, fills.
        nodata: a value that means "nothing here", or "none" where a frame of one value is a value like others.
    """

    nodata: Any
    scenes: Any
    labels: Any
    field: str | None
    test: Any
    window: int | None
    stride: int | None
    windows: int
    inside: float

    def check(self) -> None:
        """Refuses impossible values, before any data is read."""
        super().check()
        text(dataset__scenes=self.scenes, dataset__labels=self.labels, dataset__test=self.test)
        for key in ("window", "stride", "windows"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"dataset.{key}={value} must be above zero: leave it out")
        if not 0 < self.inside <= 1:
            raise UserError(f"dataset.inside={self.inside} must be above 0 and at most 1: type dataset.inside=0.5")
        if self.test and not self.labels:
            raise UserError("dataset.test= has labels that only test: type dataset.labels=FILE for those to learn from")

    def given_nodata(self) -> float | None:
        """See `Dataset.given_nodata`; None for "none" too."""
        return as_number(self.nodata, "dataset.nodata")

    def located(self) -> Path:
        """The first scene; UserError for one that is not there."""
        return Path(self.scene_files()[0])

    def source(self) -> SceneCatalog:
        """See `Dataset.source`."""
        return self.catalog()

    def catalog(self) -> SceneCatalog:
        """The windows of all scenes, in the order in which they are read.

        Raises:
            UserError: for scenes or labels that cannot be opened or do not fit together.
        """
        if not hasattr(self, "_catalog"):
            self._catalog = self._windows()
        return self._catalog

    def _windows(self) -> SceneCatalog:
        import numpy as np

        from rsssl.data.locate import ground_of
        from rsssl.data.names import Names
        from rsssl.data.scene_windows import SceneCatalog, Windows, lattice, names_of

        paths = self.scene_files()
        scenes, nodata = self._opened(paths), self.given_nodata()
        for scene in scenes:
            refuse_frame(scene, self.nodata, "dataset.nodata")
        window = self.window or self._suggested_window(scenes)
        if small := next((s for s in scenes if min(s.size) < window), None):
            raise UserError(
                f"{small.path} has {small.size[1]} x {small.size[0]} pixels, less than a window of {window}: type "
                f"dataset.window={min(small.size)} or less, or leave the scene out"
            )
        stride = self.stride or max(1, window // 2)
        labels, classes, files = self._labels(scenes, window, stride)
        at = {label[:3]: label for label in labels}
        for place in lattice([s.size for s in scenes], window, stride, self.windows):
            at.setdefault(place, _unlabelled(place))
        found = sorted(at.values(), key=lambda label: label[:3])
        names = names_of(paths)
        ids = Names.of(f"{names[label.scene]}/r{label.row:06d}_c{label.col:06d}" for label in found)
        places = np.array([label[:3] for label in found], np.int64)
        windows = Windows(tuple(paths), window, nodata)
        prints = (*(scene.fingerprint() for scene in scenes), *files)
        here = all(map(os.path.exists, paths))
        if self.gsd is None:
            self.gsd = scenes[0].metres()
        log.info("%s", self._summary(scenes, window, stride, found))
        return SceneCatalog(
            os.path.commonpath([Path(p).parent for p in paths]) if here else ".",
            ids,
            np.array([label.label for label in found], np.int64),
            classes,
            windows,
            places,
            ground=ground_of(scenes, found, window),
            fingerprints=prints,
        )

    def scene_files(self) -> list[str]:
        """The scenes as GDAL opens them, sorted.

        Raises:
            UserError: for a folder without rasters.
        """
        from rsssl.data.catalog import EXTENSIONS
        from rsssl.data.scan import rasters_below

        if self.root:
            raise UserError(f"dataset=scene has no folder of tiles: type dataset.scenes={self.root}")
        if not self.scenes:
            raise UserError("dataset=scene needs the scenes: type dataset.scenes=FILE or dataset.scenes=FOLDER")
        files: list[str] = []
        for given in as_list(self.scenes):
            path = Path(os.path.expanduser(given))
            if not path.is_dir():
                if not path.exists() and not given.startswith("/vsi") and path.suffix.lower() in EXTENSIONS:
                    raise UserError(f"the scene {given} does not exist: type dataset.scenes=FILE or a folder")
                files.append(str(path.resolve()) if path.exists() else given)  # as /vsizip/a.zip/b.tif
                continue
            inside = rasters_below(path)
            if not inside:
                raise UserError(f"{path} holds no rasters: type dataset.scenes=FILE or dataset.scenes=FOLDER")
            files += sorted(str(p.resolve()) for p in inside)
        return files

    def _suggested_window(self, scenes: list[SceneFile]) -> int:
        """The side of a window in pixels, where none is given: what shows a field or a house with its surroundings, in
        so many pixels that a network of photographs sees something when they are enlarged twice; and less where the
        labels are polygons that are smaller: half the side of the middle one, in eights."""
        from rsssl.geo.laying import sides
        from rsssl.geo.vectors import VectorFile

        metres = scenes[0].metres()
        wanted = FINE_WINDOW if metres is not None and metres < FINE else WINDOW
        drawn: list[float] = []
        for path in as_list(self.labels):
            file = VectorFile(os.path.expanduser(path), self.field, "dataset.labels", "dataset.field")
            drawn += [] if file.is_raster else sides(file, scenes[0])
        if drawn:
            wanted = min(wanted, max(LEAST, int(sorted(drawn)[len(drawn) // 2] / 2) // 8 * 8))
        return max(8, min(wanted, *(min(scene.size) for scene in scenes)))

    def class_colours(self) -> dict[str, str]:
        """Those that are given, and those of the labels' QGIS styles and class rasters."""
        from rsssl.geo.class_map import category_names
        from rsssl.geo.colours import of_style, of_table
        from rsssl.geo.vectors import VectorFile

        found: dict[str, str] = {}
        for path in as_list(self.labels):
            file = VectorFile(os.path.expanduser(path), self.field, "dataset.labels", "dataset.field")
            if file.is_raster:
                names = category_names(file.raster.GetRasterBand(1))
                found |= {names.get(v, f"class {v}"): colour for v, colour in of_table(file.raster).items()}
            else:
                found |= of_style(file.path)
        return found | (self.colours or {})

    def _opened(self, paths: list[str]) -> list[SceneFile]:
        """The scenes; UserError where they are of different sensors."""
        from rsssl.data.scene_windows import opened

        scenes = [opened(path, self.given_nodata()) for path in paths]
        first = scenes[0]
        for scene in scenes[1:]:
            if (len(scene.bands), scene.dtype) != (len(first.bands), first.dtype):
                raise UserError(
                    f"{scene.path} has {len(scene.bands)} bands of {scene.dtype}, {first.path} {len(first.bands)} of "
                    f"{first.dtype}: scenes of one sensor belong together, type dataset.scenes=[A,B] with those that do"
                )
        return scenes

    def _labels(
        self, scenes: list[SceneFile], window: int, stride: int
    ) -> tuple[list[Label], tuple[str, ...], list[tuple[str, int, int]]]:
        """The labelled windows, the classes, and the label files with their sizes and times."""
        from rsssl.geo.labels import Labels
        from rsssl.geo.laying import Cut

        self.drawn: list[Placed] = []
        if not self.labels:
            return [], (), []
        labels = Labels(scenes, Cut(window, stride, self.inside, self.windows), self.classes or None)
        stats = []
        for key, given in (("dataset.labels", self.labels), ("dataset.test", self.test)):
            for path in as_list(given):
                file = labels.add(os.path.expanduser(path), self.field, key)
                stats += [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in file.files()]
        found, classes = labels.finished()
        self.drawn = labels.drawn
        return found, classes, stats

    def tested(self, data: Data, number: int) -> list[Drawn]:
        """What tests on a scene: its points and polygons with their class; for a class raster the windows' middles."""
        from rsssl.data.grid import below
        from rsssl.data.scene_windows import opened
        from rsssl.geo.laying import geotransform_of
        from rsssl.geo.write_vectors import Drawn

        ground, classes, windows = data.pack.ground, data.pack.card.classes, self.catalog().windows
        assert ground is not None
        rows = data.split.test[ground.windows[data.split.test, 0] == number]
        features = set(ground.feature[rows].tolist())
        mine = (d for d in self.drawn if d.scene == number and d.feature in features)
        found = [Drawn(d.geometry, {"class": d.name}) for d in mine]
        transform = geotransform_of(opened(windows.scenes[number], windows.nodata))
        for row in rows[ground.feature[rows] < 0]:
            _, top, left = ground.windows[row]
            corner = below(transform, int(left) + windows.window // 2, int(top) + windows.window // 2)
            found.append(Drawn((corner[0], corner[3]), {"class": classes[data.pack.labels[row]]}))
        return found

    def _summary(self, scenes: list[SceneFile], window: int, stride: int, found: list[Any]) -> str:
        metres = scenes[0].metres()
        ground = f" ({metres * window:.0f} m)" if metres else ""
        labelled = sum(label.label >= 0 for label in found)
        return (
            f"{len(scenes)} scene{'s' * (len(scenes) > 1)}: {len(found)} windows of {window} pixels{ground}, {stride} "
            f"apart where they are that many, {labelled} with a label; dataset.window= sets another size"
        )


def as_list(given: Any) -> list[str]:
    """One name, several, or none, as a list."""
    return [given] if isinstance(given, str) else [str(name) for name in given or []]


def _unlabelled(place: tuple[int, int, int]) -> Label:
    from rsssl.data.scene_windows import Label

    return Label(*place, -1, -1, False)
