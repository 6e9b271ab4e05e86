"""What a pre-training does, for people to look at: a row of pictures for each of a few images of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rsssl.data.loader import PoolBatches
from rsssl.engine.device import autocast
from rsssl.engine.files import write_atomic
from rsssl.engine.tracking import Tracker
from rsssl.methods.base import Method
from rsssl.models.bands import shown_bands
from rsssl.models.preprocess import Preprocess
from rsssl.report.tiles import contrast, picture, png

ROWS = 8
SIDE = 96  # pixels of a picture, at least
GAP = 2
HEAD = 16  # pixels of the titles


@dataclass(frozen=True)
class Pictures:
    """Writes `<folder>/pictures/step-<n>.png`, and the same to TensorBoard: the columns that the method shows.

    Bands are shown as red, green and blue where the card names them so, else the first three; each row is stretched
    between the 2nd and 98th percentile of its last picture, which is the image as it is.

    Args:
        method: whose `pictures` are shown.
        batches: where the images come from, always the same.
        preprocess: names the bands, and says what the batches are standardised with.
        folder: of the pre-training, where `pictures` is made.
        tracker: writes to TensorBoard, if it does at all.
    """

    method: Method
    batches: PoolBatches
    preprocess: Preprocess
    folder: Path
    tracker: Tracker

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """Writes the pictures of a step; adds nothing to the log."""
        self.method.eval()
        with autocast(self.batches.device):
            columns = self.method.pictures(self.batches.sample(ROWS))
        page = self.page(columns)
        write_atomic(self.folder / "pictures" / f"step-{step:07d}.png", png(page))
        self.tracker.picture(step, "pictures", np.asarray(page))
        return {}

    def page(self, columns: Mapping[str, Tensor]) -> Image.Image:
        """Columns (n, C, S, S), standardised, by their titles -> one picture of at most `ROWS` rows."""
        images = [self.visible(column[:ROWS]) for column in columns.values()]  # each (n, S, S, 3)
        rows, size = images[0].shape[:2]
        side = size * -(-SIDE // size)  # a whole multiple: every pixel stays a square
        cell = side + GAP
        page = Image.new("RGB", (cell * len(images), HEAD + cell * rows), "white")
        for column, title in enumerate(columns):
            ImageDraw.Draw(page).text((column * cell + GAP, GAP), title, fill="black")
        for row in range(rows):
            low, high = contrast(images[-1][row])
            for column, tiles in enumerate(images):
                tile = picture(tiles[row], low, high).resize((side, side), Image.Resampling.NEAREST)
                page.paste(tile, (column * cell, HEAD + row * cell))
        return page

    def visible(self, images: Tensor) -> np.ndarray:
        """Standardised (n, C, S, S) -> three bands (n, S, S, 3) in 0..1 units."""
        bands = shown_bands(self.preprocess.card.bands)
        mean, std = (np.asarray(values)[bands, None, None] for values in (self.preprocess.mean, self.preprocess.std))
        return np.moveaxis(images.float().cpu().numpy()[:, bands] * std + mean, 1, 3)
