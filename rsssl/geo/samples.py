"""What comparing a class map with a reference gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rsssl.geo.class_map import ClassMap


@dataclass
class Samples:
    """The samples of a reference.

    Args:
        counts: (K, K) int64, rows the map's classes, columns the reference's.
        kind: what one sample is: "points", "polygons", "points and polygons" or "pixels".
        outside: left out: beyond the map (of a raster: pixels of the map where the reference has nothing).
        nodata: left out: the map is nodata there.
        unlabelled: left out: no class in the reference.
        unplaced: left out: no geometry in the reference.
        field: the attribute that was read.
        notes: sentences on how the reference was understood.
    """

    counts: np.ndarray
    kind: str
    outside: int = 0
    nodata: int = 0
    unlabelled: int = 0
    unplaced: int = 0
    field: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, scene: ClassMap, kind: str) -> Samples:
        """No samples yet, of that kind."""
        return cls(np.zeros((len(scene.values),) * 2, np.int64), kind)

    def add(self, mapped: int | None, truth: int) -> None:
        """Counts one sample.

        Args:
            mapped: the map's class, -1 for nodata, None for outside.
            truth: the reference's class.
        """
        if mapped is None:
            self.outside += 1
        elif mapped < 0:
            self.nodata += 1
        else:
            self.counts[mapped, truth] += 1

    def both_have_crs(self, scene: ClassMap, path: str, has_crs: bool) -> bool:
        """Whether the map and the reference have a CRS; noted where one has none.

        Args:
            scene: the map.
            path: of the reference.
            has_crs: whether the reference has a CRS.
        """
        if has_crs and scene.projection:
            return True
        lacking = scene.path if has_crs else path
        self.notes.append(f"{lacking} has no CRS: its coordinates are taken to be those of the other file.")
        return False
