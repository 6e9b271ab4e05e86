"""A classifier over blocks of windows: from the pixels of a scene to the probabilities of its windows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rsssl.data.scene_file import Window
from rsssl.data.scene_windows import MOSTLY
from rsssl.engine.device import on_device, sent
from rsssl.engine.distributed import broadcast, raise_together, rank
from rsssl.engine.files import write_atomic
from rsssl.engine.step_memory import free_for
from rsssl.errors import UserError
from rsssl.evaluation.heads import LinearHead
from rsssl.geo.classified import Classified
from rsssl.geo.scene import Scene
from rsssl.geo.windows import Block, Layout
from rsssl.models.preprocess import resized
from rsssl.networks.dense import DenseClassifier
from rsssl.networks.network import SceneNetwork
from rsssl.rng import Order, fold

log = logging.getLogger(__name__)
SELDOM = 1e-9  # what a window that lies mostly outside the scene counts
PIXEL = 14  # bytes that a value of a block takes while it is read, mirrored and standardised
STRIP = 32  # rows that a CPU standardises at once: they stay in its cache
PLACES, PLACE = 12, 7  # the short cut learns from so many places of so many windows a side


class Mapper:
    """A classifier on a device, for blocks of windows of one size and stride.

    Args:
        classifier: with its head.
        device: where it computes.
        window: pixels of the scene that make a tile.
        stride: pixels between windows.
        batch_size: windows classified at a time.
        fast: one pass over a block (`DenseClassifier`).
        tta: average over the eight flips and quarter turns.
        unlike: say too how unlike each window is to what was learnt from.
    """

    def __init__(
        self,
        classifier: SceneNetwork,
        device: torch.device,
        window: int,
        stride: int,
        batch_size: int | None,
        fast: bool = False,
        tta: bool = False,
        unlike: bool = False,
    ) -> None:
        if unlike and fast:
            raise UserError("map.fast=true has no features of single windows: type map.unlike=false or map.fast=false")
        if unlike and not (classifier.trust and classifier.trust.knows_the_pool):
            raise UserError(
                "this classifier does not know what its pool looked like: train it with evaluate=auto, or type "
                "map.unlike=false"
            )
        self.unlike = unlike
        self.classifier, self.device = on_device(classifier.folded(), device), device
        self.window, self.stride, self.tta = window, stride, tta
        self.batch_size = self.classifier.at_once(batch_size)
        self.dense = DenseClassifier(self.classifier, stride, window) if fast else None

    def learn(self, scene: Scene, layout: Layout, file: Path) -> None:
        """Fits the short cut to the scene, on windows of places spread over it; leaves it out for a scene of few
        windows.

        Rank 0 does it, once: what was learnt is kept in `file`, for all ranks and for a map that is resumed.
        """
        rows, cols = layout.shape
        if self.dense is None or min(rows, cols) < PLACE or rows * cols <= 2 * PLACES * PLACE**2:
            self.dense = None  # to learn would take as long as to look at each
            return
        raise_together(lambda: self._learn(scene, layout, file) if rank() == 0 and not file.is_file() else None)
        state = broadcast(load_file(file) if rank() == 0 else None)
        if state:
            self.dense.head = LinearHead(state["weight"], state["bias"]).to(self.device)
        else:
            self.dense = None  # no place without much nodata

    def _learn(self, scene: Scene, layout: Layout, file: Path) -> None:
        assert self.dense is not None
        rows, cols = layout.shape
        side, regions = (PLACE - 1) * self.stride + self.window, []
        order = Order(fold("places", rows, cols), (rows - PLACE + 1) * (cols - PLACE + 1))
        for i in order[: 20 * PLACES].tolist():
            row, col = divmod(i, cols - PLACE + 1)
            region = scene.read(row * self.stride, col * self.stride, side, side)
            if region.outside is None or region.outside.mean() < 0.5:
                regions.append(self._resized(self._standardised(region)))
            if len(regions) == PLACES:
                break
        state = {}
        if regions:
            self.dense.learn(torch.stack(regions), self.batch_size, self.tta)
            state = {k: v.detach().cpu().contiguous() for k, v in self.dense.head.state_dict().items()}
        write_atomic(file, save(state))

    def _resized(self, x: Tensor) -> Tensor:
        """A region (C, h, w) as the backbone sees it."""
        height, width = (n * self.classifier.size // self.window for n in x.shape[1:])  # whole: see DenseClassifier
        return resized(x[None], (height, width))[0]

    @torch.inference_mode()
    def block(self, block: Block, region: Window) -> Classified:
        """The probabilities of a block's windows, from the pixels of its region."""
        y, x, h, w = block.own
        top, left = block.region[:2]
        inside = slice(y - top, y - top + h), slice(x - left, x - left + w)
        valid = np.ones((h, w), bool) if region.outside is None else ~region.outside[inside]
        weight = self._weights(block, region)
        shares = np.zeros((block.rows * block.cols, len(self.classifier.classes) + 2 * self.unlike), np.float32)
        chosen = np.flatnonzero(weight.ravel() > 0)
        if len(chosen):
            found = self._probabilities(self._standardised(region), block, chosen, holes_of(block, region))
            shares[chosen] = found.float().cpu().numpy()
            if not np.isfinite(shares).all():
                raise UserError(
                    f"the classifier gives NaN or infinity for windows at row {top}, column {left} of the scene: its "
                    "weights have diverged, or the values are far from those of its training"
                )
        values = shares.reshape(block.rows, block.cols, -1)
        k = len(self.classifier.classes)
        return Classified(values[..., :k], weight, valid, values[..., k:] if self.unlike else None)

    def _weights(self, block: Block, region: Window) -> np.ndarray:
        """The valid share (rows, cols) of each window; next to nothing where it is less than half, so that it counts
        only where no other one reaches."""
        if region.outside is None:
            return np.ones((block.rows, block.cols), np.float32)
        sums = np.pad((~region.outside).cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
        y, x = (np.arange(n) * self.stride for n in (block.rows, block.cols))
        y2, x2 = y + self.window, x + self.window
        count = sums[y2][:, x2] - sums[y][:, x2] - sums[y2][:, x] + sums[y][:, x]
        share = count / self.window**2
        return np.where(share >= MOSTLY, share, SELDOM * share).astype(np.float32)

    def _standardised(self, region: Window) -> Tensor:
        """(C, h, w) float32 on the device, channels last, at the scene's resolution."""
        layer, (bands, h, w) = self.classifier.input, region.values.shape
        out = torch.empty(h, w, bands, device=self.device).permute(2, 0, 1)
        step = STRIP if self.device.type == "cpu" else h
        for rows in (slice(y, y + step) for y in range(0, h, step)):
            values = region.values[:, rows]
            if values.dtype == np.uint16 and self.device.type != "cpu":  # which few operations of an accelerator take
                values = values.astype(np.int32)
            x = layer.scale(sent(torch.from_numpy(values), self.device)[None])
            if region.missing is not None:
                x = torch.where(sent(torch.from_numpy(region.missing[:, rows]), self.device), layer.absent, x)
            out[:, rows] = x[0]
        return out

    def _probabilities(self, x: Tensor, block: Block, chosen: np.ndarray, nothing: np.ndarray | None) -> Tensor:
        """(len(chosen), K) for windows of the block, numbered along its rows; K + 2 with how unlike they are."""
        if self.dense is not None:
            shares = self.dense(self._resized(x)[None])[0].flatten(0, 1)
            return shares[torch.from_numpy(chosen).to(shares.device)]
        window, stride = self.window, self.stride
        windows = x.unfold(1, window, stride).unfold(2, window, stride)  # (C, rows, cols, window, window)
        holes = None
        if nothing is not None:
            holes = torch.from_numpy(nothing).to(x.device).unfold(0, window, stride).unfold(1, window, stride)
        out = []
        for start in range(0, len(chosen), self.batch_size):
            part = sent(torch.from_numpy(chosen[start : start + self.batch_size]), x.device)
            rows, cols = part // block.cols, part % block.cols
            tiles = windows.permute(1, 2, 3, 4, 0)[rows, cols].permute(0, 3, 1, 2)  # (B, C, window, window)
            if holes is not None:
                tiles = filled(tiles, holes[rows, cols][:, None])
            views = self.classifier.input.resize(tiles)
            if self.unlike:
                out.append(torch.cat(self.classifier.judged(views, self.tta), 1))
            else:
                out.append(self.classifier.standardised(views, self.tta))
        return torch.cat(out)


def holes_of(block: Block, region: Window) -> np.ndarray | None:
    """(h, w) bool: where a region shows nothing; beyond the scene's edges it shows the scene mirrored."""
    if region.outside is None:
        return None
    inside = np.zeros(region.outside.shape, bool)
    inside[: block.layout.height - block.region.y, : block.layout.width - block.region.x] = True
    missing = False if region.missing is None else region.missing.all(0)
    return region.outside & (inside | missing)


def filled(tiles: Tensor, holes: Tensor) -> Tensor:
    """Windows (B, C, w, w) with what lies outside the scene, holes (B, 1, w, w) bool, as the mean of what lies inside:
    the frame of a scene would be an edge, and edges are what networks look for."""
    seen = ~holes
    mean = (tiles * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(holes, mean, tiles)


def read_ahead(scene: Scene, layout: Layout, numbers: list[int]) -> Iterator[tuple[int, Block, Window]]:
    """Blocks with their pixels, the next one being read while this one is worked on."""
    blocks = [layout.block(i) for i in numbers]
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(scene.read, *b.region) for b in blocks[:1]]
        for k, (number, block) in enumerate(zip(numbers, blocks, strict=True)):
            region = ahead.pop().result()
            if k + 1 < len(blocks):
                ahead.append(pool.submit(scene.read, *blocks[k + 1].region))
            yield number, block, region


def refuse_large_windows(layout: Layout, scene: Scene, mapper: Mapper) -> None:
    """Raises UserError where the windows that are looked at together do not fit into memory."""
    block, window = layout.block(0), layout.window
    together = min(mapper.batch_size, block.rows * block.cols) * window**2
    need = scene.card.n_bands * (block.region.height * block.region.width * PIXEL + 4 * together)
    free = free_for(torch.device("cpu"))
    if need > free:
        raise UserError(
            f"windows of {window} pixels take about {need / 1e9:,.1f} GB at a time, and {free / 1e9:.1f} GB are free: "
            f"type a smaller batch_size=, or a smaller map.window= (tiles of the training had "
            f"{mapper.classifier.window} pixels)"
        )


def warn_of_shape(scene: Scene, classifier: SceneNetwork, window: int) -> None:
    """Warns when a window covers another piece of ground than a tile of the training did."""
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
