"""`task=map`: a class map of a georeferenced scene, with its areas, a preview and a QGIS style."""

from __future__ import annotations

import json
import logging
import shlex
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from rsssl.data.catalog import EXTENSIONS
from rsssl.engine.distributed import LostRank, broadcast, together
from rsssl.engine.files import sha256_of, write_json
from rsssl.engine.loop import pick_device
from rsssl.engine.parts import Parts, alone_at
from rsssl.engine.ranks import rank
from rsssl.engine.store import digest
from rsssl.errors import UserError
from rsssl.geo.area import Areas, write_areas
from rsssl.geo.product import Product
from rsssl.geo.scene import Scene
from rsssl.geo.style import palette, write_preview, write_qml
from rsssl.geo.windows import CHUNK, Blended, Blender, Classified, Layout
from rsssl.networks.classifier import SceneClassifier
from rsssl.networks.load import open_classifier
from rsssl.networks.mapper import Mapper, read_ahead
from rsssl.tasks.common import versions

log = logging.getLogger(__name__)

MAP_VERSION = 1  # raised when a change of the code changes maps
SCALE = 1e-4  # of confidence and probabilities, kept as uint16
UNKNOWN = 65535
LAYERS = ("confidence", "probabilities")
PREVIEW = 1600  # pixels of its longer side


def run(cfg: DictConfig) -> None:
    """Maps the scene, or each scene of a folder; prints what was made."""
    classifier = open_classifier(cfg.checkpoint)
    out = Path(cfg.out).expanduser()
    device = pick_device(cfg.device)
    source = Path(cfg.scene).expanduser()
    if not source.is_dir():
        if out.is_dir():
            out = out / f"{source.stem}.tif"
        # A name that is no file stays as it is typed: GDAL knows others, as /vsizip//a.zip/a.tif
        map_scene(cfg, str(source) if source.exists() else cfg.scene, out, classifier, device)
        return
    if out.suffix or out.is_file():
        raise UserError(f"scene={source} is a folder, and so has out= to be: type out={out.with_suffix('')}_maps")
    failed = []
    pairs = targets(source, out)
    for scene, target in pairs:
        try:
            map_scene(cfg, str(scene), target, classifier, device)
        except LostRank:
            raise
        except UserError as error:  # all ranks have it (`together`); the other scenes are mapped all the same
            failed.append(f"{error}")
            log.error("%s", error)
    if failed:
        raise UserError(f"{len(failed)} of {len(pairs)} scenes of {source} were not mapped:\n" + "\n".join(failed))


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
                f"{seen[target]} and {scene} would both become {target}: map them one by one, scene={scene} out=OTHER.tif"
            )
        seen[target] = scene
    return pairs


def map_scene(cfg: DictConfig, name: str, out: Path, classifier: SceneClassifier, device: torch.device) -> None:
    """One scene; does nothing when its map is finished and would be the same.

    Under torchrun all ranks call it together; what one of them fails at, all raise.
    """
    scene, mapper, layout, products = together(lambda: prepare(cfg, name, out, classifier, device))
    inputs = {
        "version": MAP_VERSION,
        "classifier": classifier.fingerprint,
        "scene": scene.fingerprint(),
        "bands": scene.bands,
        "nodata": cfg.scene_nodata,
        "adapt": cfg.adapt,
        "window": layout.window,
        "stride": layout.stride,
        "fast": cfg.map.fast,
        "tta": cfg.tta,
        "precision": "bf16" if device.type == "cuda" else "fp32",
    }
    if broadcast(rank() == 0 and finished(out, inputs, products)):
        log.info("%s stands already: made of the same scene with the same classifier", out)
        return
    with ExitStack() as held:
        together(lambda: held.enter_context(alone_at(out)))
        begin = time.monotonic()
        parts = Parts(out, inputs, layout.blocks[0] * layout.blocks[1])
        mapper.learn(scene, layout, parts.folder / "head")
        together(lambda: classify(parts, scene, layout, mapper))
        seconds = {"classify": time.monotonic() - begin}
        together(
            lambda: finish(scene, layout, parts, classifier, out, products, inputs, seconds) if rank() == 0 else None
        )


def prepare(
    cfg: DictConfig, name: str, out: Path, classifier: SceneClassifier, device: torch.device
) -> tuple[Scene, Mapper, Layout, dict[str, bool]]:
    """The scene, opened and checked; how it is gone over; and which layers are wanted."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"out={out} is not the name of a GeoTIFF: type out={out.with_suffix('.tif')}")
    bands = None if cfg.bands is None else list(cfg.bands)
    scene = Scene(name, classifier.card, bands, cfg.scene_nodata, cfg.adapt)
    written = {out, record_of(out), out.with_suffix(".qml"), Path(f"{out}.aux.xml"), *(beside(out, n) for n in LAYERS)}
    if mine := {p.resolve() for p in written} & {p.resolve() for p in scene.files()}:
        raise UserError(f"out={out} would overwrite the scene's own {min(mine)}: type out= with another name or folder")
    window = cfg.map.window or classifier.window
    stride = cfg.map.stride or max(1, window // 2)
    if stride > window:
        raise UserError(
            f"map.stride={stride} leaves gaps between windows of {window} pixels: type map.stride={window} or less"
        )
    if rank() == 0:
        warn_of_shape(scene, classifier, window)
    mapper = Mapper(classifier, device, window, stride, cfg.batch_size, cfg.map.fast, cfg.tta)
    return scene, mapper, Layout(*scene.size, window, stride), {n: bool(cfg.map[n]) for n in LAYERS}


def classify(parts: Parts, scene: Scene, layout: Layout, mapper: Mapper) -> None:
    """Makes the parts that are missing: this rank's share of the blocks."""
    todo = parts.missing()
    windows = sum(b.rows * b.cols for b in map(layout.block, todo))
    bar = tqdm(total=windows, desc=f"mapping {scene.name}", unit="window", disable=None if rank() == 0 else True)
    with bar:
        for number, block, region in read_ahead(scene, layout, todo):
            parts.write(number, mapper.block(block, region).to_bytes())
            bar.update(block.rows * block.cols)


def record_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}_record.json")


def finished(out: Path, inputs: dict[str, Any], products: dict[str, bool]) -> bool:
    """Whether this very map stands, with the layers that are wanted, as they were written."""
    try:
        known = json.loads(record_of(out).read_text())
        if known["key"] != digest(inputs):
            return False
        files = {name: known["sha256"].get(name) for name in ("map", *(n for n, wanted in products.items() if wanted))}
        return all(sha and sha256_of(out if name == "map" else beside(out, name)) == sha for name, sha in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}.tif")


def finish(
    scene: Scene,
    layout: Layout,
    parts: Parts,
    classifier: SceneClassifier,
    out: Path,
    products: dict[str, bool],
    inputs: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    """Blends the parts into the map and what goes with it."""
    begin = time.monotonic()
    classes, n = classifier.classes, len(classifier.classes)
    nodata = 255 if n <= 255 else UNKNOWN
    blender = Blender(layout, lambda i: Classified.from_bytes(parts.path(i).read_bytes()), n, nodata)
    colours, areas, preview = palette(n), Areas(scene.grid, n), Preview(layout)
    about = {"CLASSIFIER": classifier.fingerprint, "SCENE": scene.name}
    files = {
        "map": Product(
            out,
            scene.grid,
            "uint8" if nodata == 255 else "uint16",
            nodata,
            ["class"],
            classes=classes,
            colours=colours,
            metadata=about,
        )
    }
    for name, names in (("confidence", ["confidence"]), ("probabilities", list(classes))):
        if products[name]:
            files[name] = Product(beside(out, name), scene.grid, "uint16", UNKNOWN, names, scale=SCALE, metadata=about)
    try:
        total = -(-layout.height // CHUNK) * -(-layout.width // CHUNK)
        for chunk in tqdm(
            blender.chunks(products["probabilities"]), "writing", total, unit="tile", leave=False, disable=None
        ):
            files["map"].write(chunk.x, chunk.y, chunk.classes[None])
            areas.add(chunk.x, chunk.y, chunk.classes)
            preview.add(chunk)
            known = chunk.classes != nodata
            if "confidence" in files:
                files["confidence"].write(chunk.x, chunk.y, scaled(chunk.confidence[None], known))
            if "probabilities" in files and chunk.probabilities is not None:
                files["probabilities"].write(chunk.x, chunk.y, scaled(chunk.probabilities, known))
        forget(out)
        for name in sorted(files):  # the map itself before probabilities, after confidence: the record is what counts
            files[name].finish()
    finally:
        for product in files.values():
            product.abandon()
    hectares = areas.hectares()
    write_areas(out.with_name(f"{out.stem}_areas.csv"), classes, areas.pixels, hectares)
    write_qml(out.with_suffix(".qml"), classes, colours)
    write_json(
        record_of(out),
        {
            "key": digest(inputs),
            "inputs": inputs,
            "classes": list(classes),
            "sha256": {name: sha256_of(out if name == "map" else beside(out, name)) for name in files},
            "windows": layout.shape[0] * layout.shape[1],
            "seconds": seconds | {"write": time.monotonic() - begin},
            "versions": versions(),
        },
    )
    parts.remove()
    try:
        write_preview(
            out.with_name(f"{out.stem}_preview.png"),
            preview.classes(nodata),
            classes,
            colours,
            pixels=areas.pixels,
            hectares=hectares,
            title=scene.name,
            scene=picture(scene, preview),
        )
    except (
        UserError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # the map stands: a picture is no reason to make it again
        log.warning("no preview of %s: %s", out, error)
    report(out, classes, areas.pixels, hectares)


def forget(out: Path) -> None:
    """Takes away the record of an older map under this name, and the layers that it lists: they do not go with the new one."""
    try:
        known = json.loads(record_of(out).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    record_of(out).unlink()
    for name in set(known) & set(LAYERS):
        beside(out, name).unlink(missing_ok=True)


def scaled(shares: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Shares (n, h, w) of 0..1 as the integers that are kept."""
    return np.where(known, np.rint(shares / SCALE), UNKNOWN).astype(np.uint16)


class Preview:
    """The map, thinned out to what fits into a picture."""

    def __init__(self, layout: Layout) -> None:
        self.step = max(1, -(-max(layout.height, layout.width) // PREVIEW))
        self.shape = -(-layout.height // self.step), -(-layout.width // self.step)
        self._thin: dict[tuple[int, int], np.ndarray] = {}

    def add(self, chunk: Blended) -> None:
        y, x = -chunk.y % self.step, -chunk.x % self.step
        self._thin[chunk.y + y, chunk.x + x] = chunk.classes[y :: self.step, x :: self.step].copy()

    def classes(self, nodata: int) -> np.ndarray:
        """(h, w) class numbers."""
        out = np.full(self.shape, nodata, np.uint16)
        for (y, x), part in self._thin.items():
            out[y // self.step : y // self.step + part.shape[0], x // self.step : x // self.step + part.shape[1]] = part
        return out


def picture(scene: Scene, preview: Preview) -> np.ndarray | None:
    """The scene (h, w, 3) uint8 beside the map; None for one so large that reading it all would take long."""
    if preview.step > 16:
        return None
    return scene.thumbnail(preview.shape)


def report(out: Path, classes: tuple[str, ...], pixels: np.ndarray, hectares: np.ndarray | None) -> None:
    whole = max(1, int(pixels.sum()))
    print(f"\n{out}")
    for k in np.argsort(-pixels, kind="stable"):
        if pixels[k]:
            area = "" if hectares is None else f"  {hectares[k]:>14,.1f} ha"
            print(f"  {classes[k]:<28} {100 * pixels[k] / whole:6.2f} %{area}")
    print(f"  {out.stem}_preview.png, {out.stem}_areas.csv and {out.stem}.qml lie beside it")
    print(f"  how good it is: rsssl-run task=accuracy {shlex.quote(f'scene={out}')} reference=FILE")


def warn_of_shape(scene: Scene, classifier: SceneClassifier, window: int) -> None:
    """Says so when a window covers another piece of ground than a tile of the training did."""
    card = classifier.card
    if card.size[0] != card.size[1]:
        log.warning(
            "the tiles of the training had %d x %d pixels and were seen as squares; windows of the scene are squares "
            "of %d pixels",
            *card.size,
            window,
        )
    metres = scene.metres()
    if metres is None or card.gsd is None:
        return
    ground, trained = metres * window, card.gsd * classifier.window
    if not 2 / 3 < ground / trained < 1.5:
        log.warning(
            "%s: a window covers %.0f m, the tiles of the training covered %.0f m. map.window=%d would cover as much",
            scene.name,
            ground,
            trained,
            max(8, round(trained / metres)),
        )
