"""Windows of scenes as the images of a pack."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import numpy as np

from rsssl.data.catalog import Catalog
from rsssl.data.ground import Ground
from rsssl.data.raster import BadImage, Raster
from rsssl.data.scene_file import SceneFile
from rsssl.engine.files import sha256
from rsssl.errors import UserError

log = logging.getLogger(__name__)
MOSTLY = 0.5  # of a window that has to lie inside the scene
OPEN = 16  # scenes that a process keeps open


class Outside(BadImage):
    """A window that shows mostly what is no part of its scene."""


@dataclass(frozen=True)
class Windows:
    """How windows are read.

    Args:
        scenes: as GDAL opens them.
        window: pixels of a side.
        nodata: a value that means "nothing here" beside what the files declare; None for none.
    """

    scenes: tuple[str, ...]
    window: int
    nodata: float | None

    def rasters(self, items: Sequence[Any], bands: int | None) -> Iterator[Raster | BadImage]:
        """See `rsssl.data.readers.Reader`; an item is (which scene, first row, first column, path)."""
        for number, row, col, _ in items:
            try:
                yield self.read(number, row, col)
            except BadImage as error:
                yield error

    def read(self, number: int, row: int, col: int) -> Raster:
        """A window, with all bands but alpha.

        Raises:
            Outside: where more than half of it is no part of the scene; or any of it, where no value says so.
        """
        scene = opened(self.scenes[number], self.nodata)
        values, missing, outside = scene.part(col, row, self.window, self.window)
        nodata = next((v for v in [self.nodata, *(v for band in scene.nodata for v in band)] if v is not None), None)
        if values.dtype.kind == "f":
            nodata = float("nan")
        where = f"{scene.name}, row {row}, column {col}"
        if outside is not None:
            if outside.mean() > 1 - MOSTLY or nodata is None:
                raise Outside(where, "it lies mostly outside the scene")
            missing = outside | (np.zeros(values.shape, bool) if missing is None else missing)
        if missing is not None:
            values = np.where(missing, values.dtype.type(nodata), values)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        names = tuple(scene.names[b - 1] for b in scene.bands)
        return Raster(values, None if values.dtype.kind == "f" else nodata, names)


@functools.lru_cache(maxsize=OPEN)
def opened(path: str, nodata: float | None) -> SceneFile:
    """A scene, all bands but alpha in use."""
    scene = SceneFile(path, "dataset.scenes")
    scene.use(scene.colour_bands(), [nodata])
    return scene


class Label(NamedTuple):
    """A labelled window.

    Args:
        scene: number of the scene.
        row: first row.
        col: first column.
        label: number of the class.
        feature: number of the point or polygon, -1 for a raster's.
        own_test: it belongs to the user's own test set.
    """

    scene: int
    row: int
    col: int
    label: int
    feature: int
    own_test: bool


@dataclass(frozen=True)
class SceneCatalog(Catalog):
    """The windows of scenes that become a pack.

    Args:
        ground: where they lie.
        fingerprints: of the scenes and of the files with labels, which change with them.
    """

    ground: Ground = field(kw_only=True)
    fingerprints: tuple[Any, ...] = field(kw_only=True)

    @property
    def windows(self) -> Windows:
        """How they are read."""
        return cast(Windows, self.reader)

    def part(self, start: int, stop: int) -> SceneCatalog:
        return replace(super().part(start, stop), ground=self.ground.rows(np.arange(start, stop)))

    def changed(self) -> list[str]:
        now = [opened(path, self.windows.nodata).fingerprint() for path in self.windows.scenes]
        scenes = zip(self.windows.scenes, self.fingerprints, now, strict=False)  # the labels' follow
        return [path for path, before, after in scenes if before != after]

    def listing(self) -> str:
        drawn = np.stack([self.labels, self.ground.feature, self.ground.own_test], 1).astype(np.int64)
        return sha256(repr(self.fingerprints).encode() + np.ascontiguousarray(self.places).tobytes() + drawn.tobytes())


def lattice(sizes: Sequence[tuple[int, int]], window: int, stride: int, most: int) -> list[tuple[int, int, int]]:
    """Windows spread evenly over scenes: (scene, first row, first column).

    Args:
        sizes: (height, width) of the scenes in pixels.
        window: pixels of a side.
        stride: pixels from one window to the next, where there are no more than `most` of them.
        most: windows in all; with more they stand further apart, the same in all directions and scenes.
    """

    def starts(n: int, apart: float) -> np.ndarray:
        count = int((n - window) // apart) + 1
        return np.unique(np.rint(np.linspace(0, n - window, count) if count > 1 else [(n - window) / 2]).astype(int))

    def laid(apart: float) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(starts(h, apart), starts(w, apart)) for h, w in sizes]

    apart = float(stride)
    while sum(len(rows) * len(cols) for rows, cols in laid(apart)) > most:
        apart *= 1.02
    return [
        (number, int(row), int(col)) for number, (rows, cols) in enumerate(laid(apart)) for row in rows for col in cols
    ]


def names_of(scenes: Sequence[str]) -> list[str]:
    """A short name for each scene, as paths of windows begin: the file's, or as much of its path as tells it apart."""
    short = [os.path.basename(s.rstrip("/")) or s for s in scenes]
    if len(set(short)) < len(short):
        common = os.path.commonpath(scenes)
        short = [os.path.relpath(s, common) for s in scenes]
    if len(set(short)) < len(short):
        raise UserError("dataset.scenes names a scene twice: type each once")
    return short


def report_outside(catalog: Catalog, outside: set[int]) -> None:
    """Says how many windows are left out because they lie mostly outside their scene, and which of them have labels.

    Raises:
        UserError: when that is all of them.
    """
    if len(outside) == len(catalog):
        raise UserError(
            f"all {len(catalog)} windows lie mostly where the scene has no data: type dataset.nodata=none where its "
            "nodata is a value like others, or another dataset.scenes="
        )
    lost = [catalog.paths[i] for i in sorted(outside) if catalog.labels[i] >= 0]
    log.info("%d windows of %d lie mostly outside their scene and are left out", len(outside), len(catalog))
    if lost:
        log.warning("%d of them have a label: %s", len(lost), ", ".join(lost[:5]) + (", ..." if lost[5:] else ""))
