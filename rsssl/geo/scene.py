"""A georeferenced raster as a classifier needs it: bands chosen and checked against the sensor card, read window by
window.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsssl.data.scene_file import SceneFile, Window
from rsssl.geo.bands import choose
from rsssl.geo.fit import fit
from rsssl.models.bands import shown_bands
from rsssl.models.card import SensorCard


class Scene(SceneFile):
    """A raster that fits a sensor card, or is made to.

    A pixel is outside (nodata in a map) where the dataset's mask or alpha band says so, or where every chosen band is
    nodata or NaN; a band that alone is nodata counts as missing, as it does in training.

    Args:
        path: anything that GDAL opens.
        card: what the classifier was trained on.
        bands: for each band of the card the scene's band, by number (from 1) or name; None: by name where the names say
            it, in order where there are none and the numbers agree.
        nodata: a value that means "nothing here", beside what the file declares.
        values: what to do with values that do not fit: None refuses them; "cast" takes another type's numbers as they
            are; "moments" shifts and scales each band to the card's mean and standard deviation.

    Raises:
        UserError: when the file cannot be opened or does not fit, with the difference and what to type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        card: SensorCard,
        bands: Sequence[Any] | None = None,
        nodata: float | None = None,
        values: str | None = None,
    ) -> None:
        super().__init__(path)
        self.card = card
        card_nodata = card.nodata if values != "moments" else None  # in the training it meant nothing either
        self.use(choose(self.names, card, bands, path), [nodata, card_nodata])
        self._gain, self._offset = fit(self, values)

    def read(self, y: int, x: int, h: int, w: int) -> Window:
        """Rows y..y+h, columns x..x+w, which may reach beyond the scene: there it is mirrored, and outside."""
        rows, cols = _mirror(y, h, self.grid.height), _mirror(x, w, self.grid.width)
        y0, x0 = int(rows.min()), int(cols.min())
        n_rows, n_cols = int(rows.max()) - y0 + 1, int(cols.max()) - x0 + 1
        values, missing, outside = self.part(x0, y0, n_cols, n_rows)
        if n_rows != h or n_cols != w:
            iy, ix = (rows - y0)[:, None], (cols - x0)[None, :]
            values = values[:, iy, ix]
            missing = None if missing is None else missing[:, iy, ix]
            down, across = np.arange(y, y + h), np.arange(x, x + w)
            inside_rows, inside_cols = (
                (down >= 0) & (down < self.grid.height),
                (across >= 0) & (across < self.grid.width),
            )
            beyond = ~(inside_rows[:, None] & inside_cols[None])
            outside = beyond if outside is None else beyond | outside[iy, ix]
        if self._gain is not None:
            values = np.multiply(values, self._gain, dtype=np.float32)
            values += self._offset
        return Window(values.astype(np.float32) if values.dtype == np.float64 else values, missing, outside)

    def thumbnail(self, shape: tuple[int, int]) -> np.ndarray:
        """A picture (h, w, 3) uint8 of the scene, of that shape.

        It shows the bands named red, green and blue, or the first ones, each between its 2nd and 98th percentile;
        outside is white.
        """
        values, missing, outside = self.part(0, 0, self.grid.width, self.grid.height, shape)
        shown = shown_bands(self.card.bands)
        hidden = np.zeros(shape, bool) if outside is None else outside
        out = np.full((*shape, 3), 255, np.uint8)
        for channel, i in enumerate(shown):
            seen = ~hidden if missing is None else ~hidden & ~missing[i]
            plane = np.where(seen, values[i], 0).astype(np.float64)
            low, high = np.percentile(plane[seen], (2, 98)) if seen.any() else (0.0, 1.0)
            out[..., channel] = np.clip((plane - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
        out[hidden] = 255
        return out


def _mirror(start: int, n: int, size: int) -> np.ndarray:
    """Positions start..start+n of a line of `size` pixels that goes on mirrored at both ends."""
    at = np.arange(start, start + n) % (2 * size)
    return np.where(at < size, at, 2 * size - 1 - at)
