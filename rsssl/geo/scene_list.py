"""Several scenes, and the file of the map of each."""

from __future__ import annotations

import logging
from pathlib import Path

from rsssl.data.catalog import EXTENSIONS
from rsssl.data.scene_windows import names_of
from rsssl.errors import UserError

log = logging.getLogger(__name__)


def listed_targets(scenes: list[str], out: Path) -> list[tuple[Path, Path]]:
    """The scenes of a list and the map of each."""
    return [(Path(s), out / Path(name).with_suffix(".tif")) for s, name in zip(scenes, names_of(scenes), strict=True)]


def targets(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """The scenes of a folder and the map of each; what lies in `out`, if that is inside, is no scene."""
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
