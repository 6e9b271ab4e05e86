"""A classifier over blocks of windows: from the pixels of a scene to the probabilities of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rsssl.engine.device import on_device
from rsssl.engine.distributed import broadcast, raise_together, rank
from rsssl.engine.files import write_atomic
from rsssl.errors import UserError
from rsssl.evaluation.heads import LinearHead
from rsssl.geo.scene import Scene, Window
from rsssl.geo.windows import Block, Classified, Layout
from rsssl.networks.dense import DenseClassifier
from rsssl.networks.network import SceneNetwork
from rsssl.rng import Order, fold

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
    """

    def __init__(
        self,
        classifier: SceneNetwork,
        device: torch.device,
        window: int,
        stride: int,
        batch_size: int,
        fast: bool = False,
        tta: bool = False,
    ) -> None:
        self.classifier, self.device = on_device(classifier, device), device
        self.window, self.stride, self.tta = window, stride, tta
        self.batch_size = self.classifier.at_once(batch_size)
        self.dense = DenseClassifier(classifier, stride, window) if fast else None

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
        if self.window == self.classifier.size:
            return x
        size = tuple(
            n * self.classifier.size // self.window for n in x.shape[1:]
        )  # whole: DenseClassifier has seen to it
        return torch.nn.functional.interpolate(x[None], size, mode="bilinear", antialias=True)[0]

    @torch.inference_mode()
    def block(self, block: Block, region: Window) -> Classified:
        """The probabilities of a block's windows, from the pixels of its region."""
        y, x, h, w = block.own
        top, left = block.region[:2]
        inside = slice(y - top, y - top + h), slice(x - left, x - left + w)
        valid = np.ones((h, w), bool) if region.outside is None else ~region.outside[inside]
        weight = self._weights(block, region)
        shares = np.zeros((block.rows * block.cols, len(self.classifier.classes)), np.float32)
        chosen = np.flatnonzero(weight.ravel() > 0)
        if len(chosen):
            shares[chosen] = self._probabilities(self._standardised(region), block, chosen).float().cpu().numpy()
            if not np.isfinite(shares).all():
                raise UserError(
                    f"the classifier gives NaN or infinity for windows at row {top}, column {left} of the scene: its "
                    "weights have diverged, or the values are far from those of its training"
                )
        return Classified(shares.reshape(block.rows, block.cols, -1), weight, valid)

    def _weights(self, block: Block, region: Window) -> np.ndarray:
        """The valid share (rows, cols) of each window."""
        if region.outside is None:
            return np.ones((block.rows, block.cols), np.float32)
        sums = np.pad((~region.outside).cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
        y, x = (np.arange(n) * self.stride for n in (block.rows, block.cols))
        y2, x2 = y + self.window, x + self.window
        count = sums[y2][:, x2] - sums[y][:, x2] - sums[y2][:, x] + sums[y][:, x]
        return (count / self.window**2).astype(np.float32)

    def _standardised(self, region: Window) -> Tensor:
        """(C, h, w) float32 on the device, channels last, at the scene's resolution."""
        layer = self.classifier.input
        values = region.values
        if values.dtype == np.uint16 and self.device.type != "cpu":  # which few operations of an accelerator take
            values = values.astype(np.int32)
        x = layer.scale(torch.tensor(values, device=self.device)[None])
        if region.missing is not None:
            x = torch.where(torch.from_numpy(region.missing).to(self.device), layer.absent, x)
        return x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def _probabilities(self, x: Tensor, block: Block, chosen: np.ndarray) -> Tensor:
        """(len(chosen), K) for windows of the block, numbered along its rows."""
        if self.dense is not None:
            shares = self.dense(self._resized(x)[None])[0].flatten(0, 1)
            return shares[torch.from_numpy(chosen).to(shares.device)]
        windows = x.unfold(1, self.window, self.stride).unfold(
            2, self.window, self.stride
        )  # (C, rows, cols, window, window)
        out = []
        for start in range(0, len(chosen), self.batch_size):
            part = torch.from_numpy(chosen[start : start + self.batch_size]).to(x.device)
            rows, cols = part // block.cols, part % block.cols
            tiles = windows.permute(1, 2, 3, 4, 0)[rows, cols].permute(
                0, 3, 1, 2
            )  # (B, C, window, window), channels last
            out.append(self.classifier.standardised(self.classifier.input.resize(tiles), self.tta))
        return torch.cat(out)


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
