"""`task=map`: a class map of a georeferenced scene, with its areas, a preview and a QGIS style."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsssl.checks import one_of, positive
from rsssl.engine.run import Run
from rsssl.errors import UserError

log = logging.getLogger(__name__)
VALUES = ("cast", "moments")


@dataclass
class MapScene:
    """Maps a scene, or each scene of a folder, with a classifier.

    Args:
        checkpoint: the classifier: a run folder or an exported one.
        scene: a raster that GDAL opens, or a folder of them.
        out: the map, a GeoTIFF; for a folder of scenes, a folder.
        bands: of the scene for each of the classifier's, numbers from 1 or names; None to find them by name.
        values: what to do with values of another type or range than the training's: None to refuse them, "cast" to take
            the numbers as they are, "moments" to shift and scale each band to the training's mean and spread.
        scene_nodata: a value that means "nothing here"; None for what the scene declares.
        batch_size: windows classified at a time.
        tta: average over the eight flips and quarter turns.
        stride: pixels between windows; None for half a window.
        window: pixels of the scene that make a tile; None for the classifier's tiles.
        fast: one pass over a block of windows: faster, less accurate.
        confidence: write the probability of the class too.
        probabilities: write the probabilities of all classes too.
    """

    checkpoint: str
    scene: str
    out: str
    bands: list[Any] | None
    values: str | None
    scene_nodata: float | None
    batch_size: int
    tta: bool
    stride: int | None
    window: int | None
    fast: bool
    confidence: bool
    probabilities: bool

    examples: ClassVar[dict[str, str]] = {"checkpoint": "runs/mine", "scene": "scene.tif", "out": "map.tif"}

    def check(self) -> None:
        """Refuses impossible values."""
        positive(map__stride=self.stride, map__window=self.window, batch_size=self.batch_size)
        one_of("values", self.values, VALUES)
        if self.stride and self.window and self.stride > self.window:
            raise UserError(
                f"map.stride={self.stride} leaves gaps between windows of {self.window} pixels: leave it out"
            )

    def run(self, run: Run) -> dict[str, Any]:
        """Maps what has not been mapped yet, and prints the areas.

        Returns:
            {file of the map: {class: {"pixels": ..., "hectares": ...}}}.

        Raises:
            UserError: for a scene that does not fit the classifier; of a folder, when all others are mapped.
        """
        from rsssl.networks.load import find_classifier

        classifier = find_classifier(self.checkpoint)
        source, out = Path(self.scene).expanduser(), Path(self.out).expanduser()
        if source.is_dir():
            return self._folder(source, out, classifier, run)
        if out.is_dir():
            out = out / f"{source.stem}.tif"
        # A name that is no file stays as it was typed: GDAL knows others, as /vsizip//a.zip/a.tif
        return {str(out): self._one(str(source) if source.exists() else self.scene, out, classifier, run)}

    def _folder(self, source: Path, out: Path, classifier: Any, run: Run) -> dict[str, Any]:
        from rsssl.engine.distributed import LostRank

        if out.suffix or out.is_file():
            raise UserError(f"scene={source} is a folder, and so has out= to be: type out={out.with_suffix('')}_maps")
        maps, failed = {}, []
        pairs = targets(source, out)
        for scene, target in pairs:
            try:
                maps[str(target)] = self._one(str(scene), target, classifier, run)
            except LostRank:
                raise
            except UserError as error:  # all ranks have it; the other scenes are mapped all the same
                failed.append(f"{error}")
                log.error("%s", error)
        if failed:
            raise UserError(f"{len(failed)} of {len(pairs)} scenes of {source} were not mapped:\n" + "\n".join(failed))
        return maps

    def _one(self, scene: str, out: Path, classifier: Any, run: Run) -> dict[str, Any]:
        from rsssl.engine.distributed import raise_together
        from rsssl.engine.outputs import read_record
        from rsssl.engine.ranks import rank
        from rsssl.networks.mapping import MapOptions, SceneMap

        layers = tuple(name for name in ("confidence", "probabilities") if getattr(self, name))
        options = MapOptions(
            bands=None if self.bands is None else list(self.bands),
            nodata=self.scene_nodata,
            values=self.values,
            window=self.window,
            stride=self.stride,
            fast=self.fast,
            layers=layers,
            batch_size=self.batch_size,
            tta=self.tta,
        )
        scene_map = raise_together(lambda: SceneMap(scene, out, classifier, run.device, options))
        made = scene_map.make(run.config)
        if rank() > 0:
            return {}
        areas: dict[str, Any] = read_record(out).get("areas", {})
        if made:
            print_areas(out, areas)
        return areas


def targets(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """The scenes of a folder and the map of each; what lies in `out`, if that is inside, is no scene."""
    from rsssl.data.catalog import EXTENSIONS

    files = [p for p in sorted(source.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    files = [p for p in files if out.resolve() not in p.resolve().parents or out.resolve() == source.resolve()]
    scenes = [p for p in files if p.suffix.lower() in EXTENSIONS]
    if not scenes:
        raise UserError(f"{source} holds no rasters: type scene=FILE or scene=FOLDER")
    log.info("%d scenes in %s (%d other files)", len(scenes), source, len(files) - len(scenes))
    pairs = [(p, out / p.relative_to(source).with_suffix(".tif")) for p in scenes]
    seen: dict[Path, Path] = {}
    for scene, target in pairs:
        if target in seen:
            raise UserError(
                f"{seen[target]} and {scene} would both become {target}: map them one by one, scene={scene} "
                "out=OTHER.tif"
            )
        seen[target] = scene
    return pairs


def print_areas(out: Path, areas: dict[str, dict[str, Any]]) -> None:
    """The classes on the terminal, the largest first."""
    whole = max(1, sum(area["pixels"] for area in areas.values()))
    print(f"\n{out}")
    for name, area in sorted(areas.items(), key=lambda item: -item[1]["pixels"]):
        if area["pixels"]:
            hectares = "" if area["hectares"] is None else f"  {area['hectares']:>14,.1f} ha"
            print(f"  {name:<28} {100 * area['pixels'] / whole:6.2f} %{hectares}")
    print(f"  {out.stem}_preview.png, {out.stem}_areas.csv and {out.stem}.qml lie beside it")
    print(f"  how good it is: rsssl-run task=accuracy {shlex.quote(f'class_map={out}')} reference=FILE")
