"""`task=map`: a class map of a georeferenced scene, with its areas, a preview and a QGIS style."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from rsssl.data.catalog import EXTENSIONS
from rsssl.engine.distributed import collect
from rsssl.engine.files import sha256_of, write_json
from rsssl.engine.loop import pick_device
from rsssl.engine.parts import Parts, alone_at
from rsssl.engine.ranks import rank
from rsssl.engine.store import digest
from rsssl.errors import UserError
from rsssl.evaluation.classifier import SceneClassifier
from rsssl.geo.area import Areas, write_areas
from rsssl.geo.product import Product
from rsssl.geo.scene import Scene
from rsssl.geo.style import palette, write_preview, write_qml
from rsssl.geo.windows import Blended, Blender, Classified, Layout
from rsssl.tasks.common import plain, versions
from rsssl.tasks.mapper import Mapper, read_ahead
from rsssl.tasks.weights import open_classifier

log = logging.getLogger(__name__)

MAP_VERSION = 1  # raised when a change of the code changes maps
SCALE = 1e-4  # of confidence and probabilities, kept as uint16
UNKNOWN = 65535
PREVIEW = 1600  # pixels of its longer side


def run(cfg: DictConfig) -> None:
    """Maps the scene, or each scene of a folder; prints what was made."""
    classifier = open_classifier(cfg.checkpoint)
    hashed = classifier.fingerprint
    source, out = Path(cfg.scene).expanduser(), Path(cfg.out).expanduser()
    device = pick_device(cfg.device)
    if not source.is_dir():
        if out.is_dir():
            out = out / f"{source.stem}.tif"
        map_scene(cfg, source, out, classifier, hashed, device)
        return
    scenes = sorted(p for p in source.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not scenes:
        raise UserError(f"{source} holds no rasters: type scene=FILE or scene=FOLDER")
    failed = []
    for scene in scenes:
        try:
            map_scene(cfg, scene, out / scene.relative_to(source).with_suffix(".tif"), classifier, hashed, device)
        except UserError as error:  # the others are mapped all the same
            failed.append(f"{error}")
            log.error("%s", error)
    if failed:
        raise UserError(f"{len(failed)} of {len(scenes)} scenes of {source} were not mapped:\n" + "\n".join(failed))


def map_scene(cfg: DictConfig, path: Path, out: Path, classifier: SceneClassifier, hashed: str, device: torch.device) -> None:
    """One scene; does nothing when its map is finished and would be the same."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"out={out} is not the name of a GeoTIFF: type out={out.with_suffix('.tif')}")
    scene = Scene(path, classifier.card, plain({"bands": cfg.bands})["bands"] if cfg.bands else None, cfg.scene_nodata, cfg.adapt)
    window = cfg.map.window or classifier.window
    stride = cfg.map.stride or max(1, window // 2)
    warn_of_scale(scene, classifier, window)
    mapper = Mapper(classifier, device, window, stride, cfg.batch_size, cfg.map.fast, cfg.tta)
    layout = Layout(*scene.size, window, stride)
    inputs = {
        "version": MAP_VERSION, "classifier": hashed, "scene": scene.fingerprint(), "bands": scene.bands,
        "nodata": cfg.scene_nodata, "adapt": cfg.adapt, "window": window, "stride": stride, "fast": cfg.map.fast,
        "tta": cfg.tta, "batch": cfg.batch_size,
    }  # fmt: skip
    products = {"confidence": cfg.map.confidence, "probabilities": cfg.map.probabilities}
    record = out.with_suffix(".json")
    if rank() == 0 and finished(record, out, inputs, products):
        log.info("%s stands already: made of the same scene with the same classifier", out)
        collect(True)
        return
    if rank() > 0 and collect(None)[0]:
        return
    if rank() == 0:
        collect(False)
    with alone_at(out):
        begin = time.monotonic()
        mapper.learn(scene, layout)
        parts = Parts(out, inputs, layout.blocks[0] * layout.blocks[1])
        classify(parts, scene, layout, mapper)
        seconds = time.monotonic() - begin
        if rank() == 0:
            finish(scene, layout, parts, classifier, out, products)
            write_json(record, {
                "key": digest(inputs), "inputs": inputs, "products": products, "scene": str(path.resolve()),
                "checkpoint": cfg.checkpoint, "classes": list(classifier.classes), "sha256": sha256_of(out),
                "windows": layout.shape[0] * layout.shape[1],
                "seconds": {"classify": seconds, "all": time.monotonic() - begin}, "versions": versions(),
            })  # fmt: skip
            parts.remove()
    collect(None)


def classify(parts: Parts, scene: Scene, layout: Layout, mapper: Mapper) -> None:
    """Makes the parts that are missing: this rank's share of the blocks."""
    todo = parts.missing()
    windows = sum(b.rows * b.cols for b in map(layout.block, todo))
    bar = tqdm(total=windows, desc=f"mapping {scene.path.name}", unit="window", disable=None if rank() == 0 else True)
    with bar:
        for number, block, region in read_ahead(scene, layout, todo):
            parts.write(number, mapper.block(block, region).to_bytes())
            bar.update(block.rows * block.cols)
    parts.wait()


def finished(record: Path, out: Path, inputs: dict[str, Any], products: dict[str, bool]) -> bool:
    """Whether this very map stands, as it was written."""
    if not (record.is_file() and out.is_file()):
        return False
    try:
        known = json.loads(record.read_text())
    except ValueError:
        return False
    asked = {name for name, wanted in products.items() if wanted}
    there = {name for name, made in known.get("products", {}).items() if made and beside(out, name).is_file()}
    return known.get("key") == digest(inputs) and asked <= there and known.get("sha256") == sha256_of(out)


def beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}.tif")


def finish(
    scene: Scene, layout: Layout, parts: Parts, classifier: SceneClassifier, out: Path, products: dict[str, bool]
) -> None:
    """Blends the parts into the map and what goes with it."""
    classes, n = classifier.classes, len(classifier.classes)
    nodata = 255 if n <= 255 else UNKNOWN
    blender = Blender(layout, lambda i: Classified.from_bytes(parts.path(i).read_bytes()), n, nodata)
    colours, areas = palette(n), Areas(scene.grid, n)
    about = {"CLASSIFIER": classifier.fingerprint, "SCENE": scene.path.name}
    files = {"": Product(out, scene.grid, "uint8" if nodata == 255 else "uint16", nodata, ["class"], classes=classes,
                         colours=colours, metadata=about)}  # fmt: skip
    for name, names in (("confidence", ["confidence"]), ("probabilities", list(classes))):
        if products[name]:
            files[name] = Product(beside(out, name), scene.grid, "uint16", UNKNOWN, names, scale=SCALE, metadata=about)
    preview = Preview(layout)
    try:
        total = -(-layout.height // 512) * -(-layout.width // 512)
        for chunk in tqdm(blender.chunks(products["probabilities"]), "writing", total, unit="tile", leave=False, disable=None):
            files[""].write(chunk.x, chunk.y, chunk.classes[None])
            areas.add(chunk.x, chunk.y, chunk.classes)
            preview.add(chunk)
            known = chunk.classes != nodata
            if "confidence" in files:
                files["confidence"].write(chunk.x, chunk.y, scaled(chunk.confidence[None], known))
            if "probabilities" in files and chunk.probabilities is not None:
                files["probabilities"].write(chunk.x, chunk.y, scaled(chunk.probabilities, known))
        for name in sorted(files, reverse=True):  # the map itself last
            files[name].finish()
    finally:
        for product in files.values():
            product.abandon()
    hectares = areas.hectares()
    write_areas(out.with_name(f"{out.stem}_areas.csv"), classes, areas.pixels, hectares)
    write_qml(out.with_suffix(".qml"), classes, colours)
    write_preview(out.with_suffix(".png"), preview.classes(nodata), classes, colours, pixels=areas.pixels, hectares=hectares,
                  title=scene.path.name, scene=picture(scene, preview))  # fmt: skip
    report(out, classes, areas.pixels, hectares)


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
    print(f"  {out.with_suffix('.png')}   how good it is: rsssl-run task=accuracy scene={out} reference=FILE")


def warn_of_scale(scene: Scene, classifier: SceneClassifier, window: int) -> None:
    """Says so when a window covers another piece of ground than a tile of the training did."""
    metres, gsd = scene.metres(), classifier.card.gsd
    if metres is None or gsd is None or rank() > 0:
        return
    ground, trained = metres * window, gsd * classifier.window
    if not 2 / 3 < ground / trained < 1.5:
        log.warning("%s: a window covers %.0f m, the tiles of the training covered %.0f m. map.window=%d would cover as much",
                    scene.path, ground, trained, max(8, round(trained / metres)))  # fmt: skip
