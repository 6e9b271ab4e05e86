"""`task=map`: a class map of a georeferenced scene, with its areas, a preview and a QGIS style."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rsssl.checks import one_of, positive, writable
from rsssl.engine.run import NOT_IN_THE_HASH, Run
from rsssl.errors import UserError
from rsssl.records import Damaged, read_sealed
from rsssl.tasks.pipeline import Pipeline

log = logging.getLogger(__name__)
VALUES = ("cast", "moments")
VERSION = 1  # raised when a change of the code trains another classifier of the same labels
KEY = "inputs.json"  # in a classifier's folder: what it was made of
# Keys that change a map and not the classifier.
NOT_IN_THE_CLASSIFIER = (
    *NOT_IN_THE_HASH,
    "task",
    "hydra",
    "experiment",
    "scene",
    "out",
    "bands",
    "values",
    "map",
    "batch_size",
)


@dataclass
class MapScene(Pipeline):
    """Maps a scene, or each scene of a folder, with a classifier that exists, or with one that is trained first from
    the labels of `dataset=scene`. The other keys are those of `task=pipeline`, for that training.

    Args:
        checkpoint: the classifier: a run folder or an exported one; with dataset=scene None, or a backbone.
        scene: a raster that GDAL opens, or a folder of them; None: the scenes of dataset=scene.
        out: the map, a GeoTIFF; for several scenes, a folder.
        bands: of the scene for each of the classifier's, numbers from 1 or names; None to find them by name.
        values: what to do with values of another type or range than the training's: None to refuse them, "cast" to take
            the numbers as they are, "moments" to shift and scale each band to the training's mean and spread.
        scene_nodata: a value that means "nothing here"; None for what the scene declares; "none" where a frame of one
            value is a value like others.
        batch_size: windows classified at a time; None: 64, on an accelerator 512 where they fit.
        stride: pixels between windows; None for half a window.
        window: pixels of the scene that make a tile; None for the classifier's tiles.
        fast: one pass over a block of windows: faster, less accurate.
        confidence: write the probability of the class too.
        probabilities: write the probabilities of all classes too.
        coverage: write the number of plausible classes too: sets that hold the true class with that probability.
        unlike: write too how unlike each place is to the pool, and to the labels, of the training.
        page: write an HTML file too, with scene and map under a slider, areas and accuracy.
    """

    scene: str | None
    out: str
    bands: list[Any] | None
    values: str | None
    scene_nodata: Any
    batch_size: int | None
    stride: int | None
    window: int | None
    fast: bool
    confidence: bool
    probabilities: bool
    coverage: float | None
    unlike: bool
    page: bool

    examples: ClassVar[dict[str, str]] = {"checkpoint": "runs/mine", "scene": "scene.tif", "out": "map.tif"}

    def check(self) -> None:
        """Refuses impossible values."""
        super().check()
        positive(map__stride=self.stride, map__window=self.window, batch_size=self.batch_size)
        one_of("values", self.values, VALUES)
        writable("out", self.out, folder=True)
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise UserError(f"map.coverage={self.coverage:g} must lie between 0 and 1: type map.coverage=0.9")
        if self.stride and self.window and self.stride > self.window:
            raise UserError(
                f"map.stride={self.stride} leaves gaps between windows of {self.window} pixels: leave it out"
            )

    def check_files(self) -> None:
        """Refuses a map without labels or a classifier, and a name that no map can have, before anything is read."""
        named = self.scene or getattr(self.dataset, "scenes", None)
        if not self.from_labels and not self.checkpoint and getattr(self.dataset, "scenes", None):
            raise UserError(
                "dataset.labels= is missing, which a classifier is trained from: type dataset.labels=points.gpkg "
                "(points, polygons or a class raster), or checkpoint=runs/mine for a classifier that exists"
            )
        if not named:
            return  # told where scenes are looked for
        scenes, out = self._scenes(Path(self.out).expanduser())
        if len(scenes) == 1 and not is_folder(scenes[0]):
            if out.suffix.lower() not in (".tif", ".tiff"):
                raise UserError(f"out={out} is not the name of a GeoTIFF: type out={out.with_suffix('.tif')}")
        elif out.suffix or out.is_file():
            raise UserError(
                f"{self.scene or 'dataset.scenes'} are several scenes, so out= has to be a folder: type "
                f"out={out.with_suffix('')}_maps"
            )

    def run(self, run: Run) -> dict[str, Any]:
        """Maps what has not been mapped yet, and prints the areas.

        Returns:
            {file of the map: {class: {"pixels": ..., "hectares": ...}}}.

        Raises:
            UserError: for a scene that does not fit the classifier; of a folder, when all others are mapped.
        """
        from rsssl.data.scene_windows import opened
        from rsssl.engine.ranks import rank
        from rsssl.geo.nodata import refuse_frame
        from rsssl.networks.load import find_classifier
        from rsssl.report.map_page import page_of, write_page

        named = self.scene or getattr(self.dataset, "scenes", None)
        if not self.from_labels and not (self.checkpoint and named):
            lacking = "scene" if self.checkpoint else "checkpoint"
            raise UserError(
                f"task=map needs {lacking}=: type for example {lacking}={self.examples[lacking]}, or dataset=scene "
                "dataset.scenes=scene.tif dataset.labels=points.gpkg to train a classifier first"
            )
        out = Path(self.out).expanduser()
        scenes, target = self._scenes(out)
        checkpoint = self.checkpoint
        if self.from_labels:
            for scene in scenes:
                refuse_frame(opened(scene, None), self.nothing_here(), "scene_nodata")
            checkpoint = self._trained(run, target)
        assert checkpoint is not None
        classifier = find_classifier(checkpoint)
        if len(scenes) == 1 and not is_folder(scenes[0]):
            maps = {str(target): self._one(scenes[0], target, classifier, run)}
        else:
            maps = self._several(scenes, target, classifier, run)
        if self.from_labels and self.scene is None:
            self._assess(scenes, [Path(name) for name in maps], run)
        if self.page and rank() == 0:
            for name in maps:
                seen = {"bands": self.bands, "nodata": self.nothing_here(), "values": self.values}
                print(f"  {write_page(page_of(Path(name), classifier, run.typed, **seen))}")
        return maps

    def _assess(self, scenes: list[str], maps: list[Path], run: Run) -> None:
        """How good the maps are by the labels that test, and how large their classes."""
        from rsssl.data.prepared import load
        from rsssl.data.scene_windows import opened
        from rsssl.engine.ranks import rank
        from rsssl.geo.scene_dataset import SceneDataset
        from rsssl.geo.write_vectors import write_features
        from rsssl.tasks.accuracy import AssessAccuracy

        assert isinstance(self.dataset, SceneDataset)
        data = load(self.dataset, run.store, run.workers, self.protocol, self.pack.tiles)
        for number, (scene, target) in enumerate(zip(scenes, maps, strict=True)):
            tested = self.dataset.tested(data, number) if rank() == 0 else []
            if tested:
                reference = target.with_name(f"{target.stem}_test.gpkg")
                write_features(reference, "test", opened(scene, None).grid.projection, tested)
                AssessAccuracy(str(target), str(reference), "class", None).run(run)

    @property
    def from_labels(self) -> bool:
        """Whether a classifier is trained first."""
        from rsssl.geo.scene_dataset import SceneDataset

        return isinstance(self.dataset, SceneDataset) and bool(self.dataset.labels)

    def _scenes(self, out: Path) -> tuple[list[str], Path]:
        """The scenes as GDAL opens them, and the file of the map or the folder of the maps."""
        from rsssl.geo.scene_dataset import SceneDataset

        if self.scene is None:
            assert isinstance(self.dataset, SceneDataset)
            scenes = self.dataset.scene_files()
        else:
            path = Path(self.scene).expanduser()
            # A name that is no file stays as it was typed: GDAL knows others, as /vsizip//a.zip/a.tif
            scenes = [str(path) if path.exists() else self.scene]
        if len(scenes) == 1 and not is_folder(scenes[0]) and out.is_dir():
            out = out / f"{Path(scenes[0]).stem}.tif"
        return scenes, out

    def _trained(self, run: Run, target: Path) -> str:
        """The folder, beside the map, of the classifier that the labels train; that which is there, where nothing that
        it follows from has changed."""
        from rsssl.engine.distributed import broadcast
        from rsssl.engine.files import write_sealed
        from rsssl.engine.ranks import rank
        from rsssl.engine.store import digest
        from rsssl.networks.files import CLASSIFIER

        folder = target.with_name(f"{target.stem}_classifier")
        keys = {k: v for k, v in run.config.items() if k not in NOT_IN_THE_CLASSIFIER}
        key = digest({"version": VERSION, "config": keys, "data": self.dataset.listing()})
        stands = broadcast(rank() == 0 and read_key(folder) == key and (folder / CLASSIFIER).is_file())
        if stands:
            log.info("%s stands already: made of the same data and configuration", folder)
            return str(folder)
        if rank() == 0:
            (folder / KEY).unlink(missing_ok=True)
        super().run(replace(run, folder=folder))
        if rank() == 0:
            write_sealed(folder / KEY, {"key": key})
        broadcast(None)  # the other ranks read what rank 0 has written
        return str(folder)

    def _several(self, scenes: list[str], out: Path, classifier: Any, run: Run) -> dict[str, Any]:
        from rsssl.engine.distributed import LostRank
        from rsssl.geo.scene_list import listed_targets, targets

        named = self.scene or "dataset.scenes"
        maps, failed = {}, []
        pairs = targets(Path(scenes[0]), out) if self.scene else listed_targets(scenes, out)
        for scene, target in pairs:
            try:
                maps[str(target)] = self._one(str(scene), target, classifier, run, one_of_several=True)
            except LostRank:
                raise
            except UserError as error:  # all ranks have it; the other scenes are mapped all the same
                failed.append(f"{error}")
                log.error("%s", error)
        if failed:
            raise UserError(f"{len(failed)} of {len(pairs)} scenes of {named} were not mapped:\n" + "\n".join(failed))
        return maps

    def nothing_here(self) -> Any:
        """What was typed for the value that means "nothing here": of the scene, or of dataset=scene."""
        from rsssl.geo.scene_dataset import SceneDataset

        if self.scene_nodata is None and isinstance(self.dataset, SceneDataset):
            return self.dataset.nodata
        return self.scene_nodata

    def _one(self, scene: str, out: Path, classifier: Any, run: Run, one_of_several: bool = False) -> dict[str, Any]:
        from rsssl.engine.distributed import raise_together
        from rsssl.engine.outputs import read_record
        from rsssl.engine.ranks import rank
        from rsssl.networks.mapping import LAYERS, MapOptions, SceneMap
        from rsssl.report.summary import print_areas

        asked = {"plausible": self.coverage is not None}
        layers = tuple(name for name in LAYERS if asked.get(name, getattr(self, name, False)))
        options = MapOptions(
            bands=None if self.bands is None else list(self.bands),
            nodata=self.nothing_here(),
            values=self.values,
            window=self.window,
            stride=self.stride,
            fast=self.fast,
            layers=layers,
            batch_size=self.batch_size,
            tta=self.tta,
            coverage=self.coverage,
            one_of_several=one_of_several,
        )
        scene_map = raise_together(lambda: SceneMap(scene, out, classifier, run.device, options))
        made = scene_map.make(run.config)
        if rank() > 0:
            return {}
        areas: dict[str, Any] = read_record(out).get("areas", {})
        if made:
            print_areas(out, areas, classifier.notes)
        return areas


def is_folder(scene: str) -> bool:
    return Path(scene).is_dir()


def read_key(folder: Path) -> str | None:
    """What a classifier's folder was made of; None where it is not finished."""
    try:
        return str(read_sealed(folder / KEY, "run the same command again")["key"])
    except Damaged:
        return None
