"""Several scenes, and the file of the map of each."""

from __future__ import annotations

import logging
from pathlib import Path

from rsssl.data.scan import rasters_below
from rsssl.data.scene_windows import names_of
from rsssl.errors import UserError

log = logging.getLogger(__name__)


def listed_targets(scenes: list[str], out: Path) -> list[tuple[Path, Path]]:
    """The scenes of a list and the map of each."""
    return [(Path(s), out / Path(name).with_suffix(".tif")) for s, name in zip(scenes, names_of(scenes), strict=True)]


def targets(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """The scenes of a folder and the map of each; what lies in `out`, if that is inside, is no scene."""
    own = out.resolve()
    scenes = [p for p in rasters_below(source) if own not in p.resolve().parents or own == source.resolve()]
    if not scenes:
        raise UserError(f"{source} holds no rasters: type scene=FILE or scene=FOLDER")
    log.info("%d scenes in %s", len(scenes), source)
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
