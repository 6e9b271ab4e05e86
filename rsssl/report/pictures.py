"""What a pre-training does, for people to look at: a row of pictures for each of a few images of the pool."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rsssl.data.loader import PoolBatches
from rsssl.engine.files import write_atomic
from rsssl.engine.loop import autocast
from rsssl.engine.tracking import Tracker
from rsssl.methods.base import Method
from rsssl.models.card import SensorCard

ROWS = 8
SIDE = 96  # pixels of a picture, at least
GAP = 2
HEAD = 16  # pixels of the titles
COLOURS = (("red", "r", "b04"), ("green", "g", "b03"), ("blue", "b", "b02"))


class Pictures:
    """Writes `<folder>/pictures/step-<n>.png`, and the same to TensorBoard: the columns that the method shows.

    Bands are shown as red, green and blue where the card names them so, else the first three; each row is stretched between
    the 2nd and 98th percentile of its last picture, which is the image as it is.
    """

    def __init__(
        self,
        method: Method,
        batches: PoolBatches,
        card: SensorCard,
        mean: Sequence[float],
        std: Sequence[float],
        folder: Path,
        tracker: Tracker,
    ) -> None:
        self.method, self.batches, self.folder, self.tracker = method, batches, folder / "pictures", tracker
        self.mean, self.std = np.asarray(mean), np.asarray(std)
        self.bands = shown_bands(card.bands)

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        self.method.eval()
        with autocast(self.batches.device):
            columns = self.method.pictures(self.batches.sample(ROWS))
        page = self.page(columns)
        content = io.BytesIO()
        Image.fromarray(page).save(content, format="PNG")
        write_atomic(self.folder / f"step-{step:07d}.png", content.getvalue())
        self.tracker.picture(step, "pictures", page)
        return {}

    def page(self, columns: Mapping[str, Tensor]) -> np.ndarray:
        """Columns (n, C, S, S), standardised, by their titles -> one picture (H, W, 3) uint8."""
        images = [self.visible(c[:ROWS]) for c in columns.values()]
        rows = []
        for row in range(len(images[0])):
            low, high = np.percentile(images[-1][row], [2, 98])
            tiles = [np.clip((i[row] - low) / max(high - low, 1e-3), 0, 1) for i in images]
            rows.append(np.concatenate([framed(enlarged((255 * t).round().astype(np.uint8))) for t in tiles], 1))
        head = Image.new("RGB", (rows[0].shape[1], HEAD), "white")
        for number, title in enumerate(columns):
            ImageDraw.Draw(head).text((number * rows[0].shape[1] // len(columns) + GAP, GAP), title, fill="black")
        return np.concatenate([np.asarray(head), *rows])

    def visible(self, images: Tensor) -> np.ndarray:
        """Standardised (n, C, S, S) -> three bands (n, S, S, 3) in 0..1 units."""
        values = images.float().cpu().numpy()[:, self.bands]
        bands = np.asarray(self.bands)
        return np.moveaxis(values * self.std[bands, None, None] + self.mean[bands, None, None], 1, 3)


def shown_bands(names: Sequence[str]) -> list[int]:
    """Three band numbers: red, green and blue if they are named, else the first three (the first again where there are fewer)."""
    lower = [n.lower() for n in names]
    found = [next((lower.index(n) for n in colour if n in lower), None) for colour in COLOURS]
    if None not in found:
        return [i for i in found if i is not None]
    return [0, 1, 2] if len(names) > 2 else [0, 0, 0]


def enlarged(tile: np.ndarray) -> np.ndarray:
    factor = max(1, -(-SIDE // len(tile)))
    return tile.repeat(factor, 0).repeat(factor, 1)


def framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
