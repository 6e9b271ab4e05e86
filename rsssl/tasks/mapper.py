"""A classifier over blocks of windows: from the pixels of a scene to the probabilities of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from rsssl.engine.loop import autocast, on_device
from rsssl.errors import UserError
from rsssl.evaluation.classifier import SceneClassifier
from rsssl.evaluation.dense import DenseClassifier
from rsssl.geo.scene import Scene, Window
from rsssl.geo.windows import Block, Classified, Layout
from rsssl.rng import fold, permutation

PLACES, PLACE = 12, 7  # the short cut learns from so many places of so many windows a side


class Mapper:
    """A classifier on a device, and how it goes over blocks of windows.

    Args:
        window: pixels of the scene that make a tile. stride: pixels between them.
        fast: one pass over a block (`DenseClassifier`).
    """

    def __init__(self, classifier: SceneClassifier, device: torch.device, window: int, stride: int, batch_size: int = 64,
                 fast: bool = False, tta: bool = False) -> None:  # fmt: skip
        self.classifier, self.device = on_device(classifier, device), device
        self.window, self.stride, self.batch_size, self.tta = window, stride, batch_size, tta
        self.dense = DenseClassifier(classifier, self._scaled(stride)) if fast else None

    def _scaled(self, pixels: int) -> int:
        """Pixels of the scene as pixels of what the backbone sees."""
        if pixels * self.classifier.size % self.window:
            raise UserError(
                f"map.fast=true: windows of {self.window} pixels are resized to {self.classifier.size}, and {pixels} pixels "
                "become a broken number of them: type map.stride= with half of the window, or leave out map.fast"
            )
        return pixels * self.classifier.size // self.window

    def learn(self, scene: Scene, layout: Layout) -> None:
        """Fits the short cut to the scene, on windows of places spread over it; leaves it out for a scene of few windows."""
        if self.dense is None:
            return
        rows, cols = layout.shape
        if rows < PLACE or cols < PLACE or rows * cols <= 2 * PLACES * PLACE**2:
            self.dense = None  # to learn would take as long as to look at each
            return
        side, found = (PLACE - 1) * self.stride + self.window, []
        order = permutation(fold("places", rows, cols), (rows - PLACE + 1) * (cols - PLACE + 1))
        for i in order[: 20 * PLACES].tolist():
            row, col = divmod(i, cols - PLACE + 1)
            region = scene.read(row * self.stride, col * self.stride, side, side)
            if region.outside is None or region.outside.mean() < 0.5:
                found.append(self._resized(self._standardised(region)))
            if len(found) == PLACES:
                break
        if found:
            self.dense.learn(torch.stack(found), self.batch_size)

    def _resized(self, x: Tensor) -> Tensor:
        """A region (C, h, w) as the backbone sees it."""
        if self.window == self.classifier.size:
            return x
        size = self._scaled(x.shape[1]), self._scaled(x.shape[2])
        return torch.nn.functional.interpolate(x[None], size, mode="bilinear", antialias=True)[0]

    @torch.inference_mode()
    def block(self, block: Block, region: Window) -> Classified:
        """The probabilities of a block's windows, from the pixels of its region."""
        y, x, h, w = block.own
        top, left = block.region[:2]
        own = slice(y - top, y - top + h), slice(x - left, x - left + w)
        valid = np.ones((h, w), bool) if region.outside is None else ~region.outside[own]
        weight = self._weights(block, region)
        shares = np.zeros((block.rows * block.cols, len(self.classifier.classes)), np.float32)
        chosen = np.flatnonzero(weight.ravel() > 0)
        if len(chosen):
            shares[chosen] = self._probabilities(self._standardised(region), block, chosen).float().cpu().numpy()
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
        preprocess = self.classifier.preprocess
        x = preprocess.scale(torch.from_numpy(region.values).to(self.device)[None])
        if region.missing is not None:
            x = torch.where(torch.from_numpy(region.missing).to(self.device), preprocess.absent, x)
        return x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def _probabilities(self, x: Tensor, block: Block, chosen: np.ndarray) -> Tensor:
        """(len(chosen), K) for windows of the block, numbered along its rows."""
        if self.dense is not None:
            with autocast(self.device):
                found = self.dense(self._resized(x)[None])[0].flatten(0, 1)
            return found[torch.from_numpy(chosen).to(found.device)]
        windows = x.unfold(1, self.window, self.stride).unfold(2, self.window, self.stride)  # (C, rows, cols, window, window)
        out = []
        for start in range(0, len(chosen), self.batch_size):
            part = torch.from_numpy(chosen[start : start + self.batch_size]).to(x.device)
            rows, cols = part // block.cols, part % block.cols
            tiles = windows.permute(1, 2, 3, 4, 0)[rows, cols].permute(0, 3, 1, 2)  # (B, C, window, window), channels last
            with autocast(self.device):
                out.append(self.classifier.standardised(self.classifier.preprocess.resize(tiles), self.tta))
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
