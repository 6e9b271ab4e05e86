"""From a scene to its class map: classified in blocks, blended, written with its areas, a preview and a QGIS style."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsssl.engine.device import precision
from rsssl.engine.distributed import raise_together
from rsssl.engine.files import write_atomic
from rsssl.engine.outputs import Output, Parts, record_of
from rsssl.engine.progress import Progress, followed
from rsssl.engine.ranks import rank
from rsssl.errors import UserError
from rsssl.geo.area import Areas, write_areas
from rsssl.geo.classified import Classified
from rsssl.geo.colours import colours_of
from rsssl.geo.nodata import as_number, refuse_frame
from rsssl.geo.product import Product, Values
from rsssl.geo.scene import Scene
from rsssl.geo.style import Legend, preview_png, write_qml
from rsssl.geo.windows import CHUNK, Blended, Blender, Layout
from rsssl.networks.mapper import Mapper, read_ahead, refuse_large_windows, warn_of_shape
from rsssl.networks.network import SceneNetwork

log = logging.getLogger(__name__)

MAP_VERSION = 3  # raised when a change of the code changes maps
SCALE = 1e-4  # of confidence and probabilities, kept as uint16
UNKNOWN = 65535
UNLIKE_SCALE = 1e-3  # of how unlike places are
LAYERS = ("confidence", "probabilities", "plausible", "unlike")
PREVIEW = 1600  # pixels of its longer side


@dataclass(frozen=True)
class MapOptions:
    """How scenes are mapped.

    Args:
        bands: of the scene for each of the classifier's, numbers from 1 or names; None to find them by name.
        nodata: a value that means "nothing here"; None for what the scene declares, "none" to look for no frame.
        values: what to do with values unlike the training's: None (refuse), "cast" or "moments".
        window: pixels of the scene that make a tile; None for the classifier's tiles.
        stride: pixels between windows; None for half a window.
        fast: one pass over a block.
        layers: of LAYERS, what to write beside the map.
        batch_size: windows classified at a time.
        tta: average over the eight flips and quarter turns.
        coverage: of the sets of plausible classes; None for no such layer.
        colours: of classes by name; None for those that the classifier came with.
        one_of_several: scenes, of which one may have no pixel with a value.
    """

    bands: list[Any] | None
    nodata: Any
    values: str | None
    window: int | None
    stride: int | None
    fast: bool
    layers: tuple[str, ...]
    batch_size: int | None
    tta: bool
    coverage: float | None = None
    colours: dict[str, str] | None = None
    one_of_several: bool = False


def beside(out: Path, layer: str) -> Path:
    """The file of a layer beside the map."""
    return out if layer == "map" else out.with_name(f"{out.stem}_{layer}.tif")


class SceneMap:
    """One scene on its way to a class map. Under torchrun all ranks use it together.

    Args:
        name: the scene, as GDAL opens it.
        out: the map's file.
        classifier: with its head.
        device: where it computes.
        options: how the scene is mapped.

    Raises:
        UserError: for a scene that does not fit the classifier, or a name that would overwrite it.
    """

    def __init__(
        self, name: str, out: Path, classifier: SceneNetwork, device: torch.device, options: MapOptions
    ) -> None:
        self.classifier, self.out, self.options = classifier, out, options
        nodata = as_number(options.nodata, "scene_nodata")
        self.scene = Scene(name, classifier.card, options.bands, nodata, options.values)
        refuse_frame(self.scene, options.nodata, "scene_nodata")
        written = {out, record_of(out), out.with_suffix(".qml"), Path(f"{out}.aux.xml")}
        written |= {beside(out, layer) for layer in LAYERS}
        if own := {p.resolve() for p in written} & {p.resolve() for p in self.scene.files()}:
            raise UserError(f"out={out} would overwrite the scene's own {min(own)}: type out= with another name")
        window = options.window or classifier.window
        stride = options.stride or max(1, window // 2)
        if stride > window:
            raise UserError(
                f"map.stride={stride} leaves gaps between windows of {window} pixels: type map.stride={window} or less"
            )
        if rank() == 0:
            warn_of_shape(self.scene, classifier, window)
        unlike = "unlike" in options.layers
        self.mapper = Mapper(classifier, device, window, stride, options.batch_size, options.fast, options.tta, unlike)
        if options.coverage is not None and (classifier.trust is None or not len(classifier.trust.scores)):
            raise UserError(
                "this classifier has no labels that were held out, which map.coverage= needs: train it with "
                "evaluate=auto and two labels per class or more, or leave map.coverage out"
            )
        self.layout = Layout(*self.scene.size, window, stride)
        refuse_large_windows(self.layout, self.scene, self.mapper)
        n = len(classifier.classes)
        self.nodata, self.areas = 255 if n <= 255 else UNKNOWN, Areas(self.scene.grid, n)
        self.colours = colours_of(classifier.classes, options.colours or classifier.notes.get("colours"))
        inputs = {
            "version": MAP_VERSION,
            "classifier": classifier.fingerprint,
            "scene": self.scene.fingerprint(),
            "bands": self.scene.bands,
            "nodata": nodata,
            "adapt": options.values,
            "window": window,
            "stride": stride,
            "fast": options.fast,
            "tta": options.tta,
            "unlike": unlike,
            "coverage": options.coverage,
            "colours": self.colours.tolist(),
            "precision": precision(device),
        }
        self.output = Output(out, inputs)

    def make(self, config: dict[str, Any]) -> bool:
        """Makes the map; what one rank fails at, all raise. False when it stood already. config: for the record."""
        if self.output.finished({layer: beside(self.out, layer) for layer in ("map", *self.options.layers)}):
            return False
        with self.output.alone():
            begin, (rows, cols) = time.monotonic(), self.layout.shape
            log.info(
                f"{self.scene.name}, {self.layout.width:,} x {self.layout.height:,} pixels: {rows * cols:,} windows of "
                f"{self.layout.window} pixels, one every {self.layout.stride}, to {self.out}"
            )
            parts = self.output.parts(self.layout.blocks[0] * self.layout.blocks[1])
            self.mapper.learn(self.scene, self.layout, parts.folder / "head")
            raise_together(lambda: self._classify(parts))
            seconds = {"classify": time.monotonic() - begin}
            raise_together(lambda: self._finish(parts, seconds, config) if rank() == 0 else None)
        return True

    def _classify(self, parts: Parts) -> None:
        """Makes the parts that are missing: this rank's share of the blocks."""
        todo = parts.missing()
        windows = sum(b.rows * b.cols for b in map(self.layout.block, todo))
        with Progress(f"mapping {self.scene.name}", windows, "windows") as progress:
            for number, block, region in read_ahead(self.scene, self.layout, todo):
                parts.write(number, self.mapper.block(block, region).to_bytes())
                progress.update(block.rows * block.cols)

    def _finish(self, parts: Parts, seconds: dict[str, float], config: dict[str, Any]) -> None:
        """Blends the parts into the map and what goes with it."""
        begin, out, classes = time.monotonic(), self.out, self.classifier.classes
        files, preview = self._write(parts)
        hectares = self.areas.hectares()
        if hectares is None and not self.scene.grid.projection:
            text = "%s has no CRS that says how large its pixels are: areas are in pixels"
            log.warning(text, self.scene.path)
        write_areas(out.with_name(f"{out.stem}_areas.csv"), classes, self.areas.pixels, hectares)
        write_qml(out.with_suffix(".qml"), classes, self.colours)
        known = [None] * len(classes) if hectares is None else hectares.tolist()
        shares = [None if h is None or not math.isfinite(h) else h for h in known]
        pixels = self.areas.pixels.tolist()
        more = {
            "classes": list(classes),
            "areas": {c: {"pixels": n, "hectares": h} for c, n, h in zip(classes, pixels, shares, strict=True)},
            "windows": self.layout.shape[0] * self.layout.shape[1],
            "seconds": seconds | {"write": time.monotonic() - begin},
            "config": config,
        }
        if picture := self._picture(preview, hectares):
            write_atomic(out.with_name(f"{out.stem}_preview.png"), picture)  # a full disk stops before the record
        self.output.finish({layer: beside(out, layer) for layer in files}, more)
        parts.remove()

    def _nothing(self, parts: Parts) -> None:
        """Says that the scene has no pixel with a value; UserError unless it is one of several."""
        text = (
            f"{self.scene.path} has no pixel with a value in its bands {self.scene.bands}, so there is nothing to map: "
            "look at it in QGIS, then type bands=[...] or scene_nodata=none"
        )
        if not self.options.one_of_several:
            parts.remove()
            raise UserError(text)
        log.warning("%s", text)

    def _picture(self, preview: Preview, hectares: np.ndarray | None) -> bytes | None:
        """The preview's PNG; None where it cannot be drawn: the map stands all the same."""
        try:
            legend = Legend(self.classifier.classes, self.colours, self.areas.pixels, hectares)
            scene = self.scene.thumbnail(preview.shape) if preview.step <= 16 else None
            return preview_png(preview.classes(self.nodata), legend, self.scene.name, scene)
        except (UserError, OSError, RuntimeError, ValueError) as error:
            log.warning("no preview of %s: %s", self.out, error)
            return None

    def _write(self, parts: Parts) -> tuple[Sequence[str], Preview]:
        """The map and its layers, block by block; the names of what was written, and the map thinned out."""
        nodata, n = self.nodata, len(self.classifier.classes)
        blender = Blender(
            self.layout, lambda i: Classified.from_bytes(parts.path(i).read_bytes()), n, nodata, self.least()
        )
        preview, files = Preview(self.layout), self._products()
        total = -(-self.layout.height // CHUNK) * -(-self.layout.width // CHUNK)
        chunks = blender.chunks("probabilities" in files)
        try:
            for chunk in followed(chunks, f"writing {self.out.name}", "tiles", total):
                files["map"].write(chunk.x, chunk.y, chunk.classes[None])
                self.areas.add(chunk.x, chunk.y, chunk.classes)
                preview.add(chunk)
                known = chunk.classes != nodata
                if "confidence" in files:
                    files["confidence"].write(chunk.x, chunk.y, scaled(chunk.confidence[None], known))
                if "probabilities" in files and chunk.probabilities is not None:
                    files["probabilities"].write(chunk.x, chunk.y, scaled(chunk.probabilities, known))
                if "plausible" in files and chunk.plausible is not None:
                    files["plausible"].write(
                        chunk.x, chunk.y, np.where(known, chunk.plausible, nodata).astype(chunk.classes.dtype)[None]
                    )
                if "unlike" in files and chunk.unlike is not None:
                    files["unlike"].write(chunk.x, chunk.y, scaled(chunk.unlike, known, UNLIKE_SCALE))
            if not self.areas.pixels.any():
                self._nothing(parts)
            for stale in (self.output.forget() & set(LAYERS)) - set(files):
                beside(self.out, stale).unlink(missing_ok=True)
            for layer in sorted(files):
                files[layer].finish()
        finally:
            for product in files.values():
                product.abandon()
        return list(files), preview

    def _products(self) -> dict[str, Product]:
        """The files to write, by layer."""
        classes, grid, nodata = self.classifier.classes, self.scene.grid, self.nodata
        about = {"CLASSIFIER": self.classifier.fingerprint, "SCENE": self.scene.name}
        dtype = "uint8" if nodata == 255 else "uint16"
        files = {"map": Product(self.out, grid, Values(dtype, nodata, ["class"], classes, self.colours), about)}
        for layer, values in (
            ("confidence", Values("uint16", UNKNOWN, ["confidence"], scale=SCALE)),
            ("probabilities", Values("uint16", UNKNOWN, list(classes), scale=SCALE)),
            ("plausible", Values(dtype, nodata, [f"plausible classes, {self.options.coverage} covered"])),
            ("unlike", Values("uint16", UNKNOWN, ["unlike the pool", "unlike the labels"], scale=UNLIKE_SCALE)),
        ):
            if layer in self.options.layers:
                files[layer] = Product(beside(self.out, layer), grid, values, about)
        return files

    def least(self) -> np.ndarray | None:
        """(K,) the probability from which on a class is plausible."""
        trust, coverage = self.classifier.trust, self.options.coverage
        return None if coverage is None or trust is None else trust.least(coverage).cpu().numpy()


def scaled(shares: np.ndarray, known: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """Numbers (n, h, w) as the integers that are kept."""
    return np.where(known, np.minimum(np.rint(shares / scale), UNKNOWN - 1), UNKNOWN).astype(np.uint16)


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
            row, col = y // self.step, x // self.step
            out[row : row + part.shape[0], col : col + part.shape[1]] = part
        return out
