"""The passes over pixels on a CPU: numba's loops (kernels.py), on all threads. Imported through `ops.canvas`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsssl.augment import kernels
from rsssl.augment.resample import Frame, Place
from rsssl.threads import over_samples

TINY = 2.0**-25  # a weight that a float32 sum of weights, which is 1, does not see


class Canvas:
    """As pixels.Canvas, but the passes are noted, and carried out view by view when the values are asked for: so a view
    goes from its stored image to its place in `out` while it lies in the processor's cache.

    Args:
        place: where the views come from.
        out: where they go, (n, C, S, S) float32.
    """

    def __init__(self, place: Place, out: Tensor) -> None:
        self.out = out
        self._begin(place)

    def _begin(self, place: Place) -> None:
        stored, bands = place.x.contiguous().numpy(), place.x.shape[1]
        which, boxes, codes = (t.numpy() for t in (place.which, place.boxes, place.codes))
        self._images = kernels.Images(stored, stored.reshape(-1), which, boxes, codes, place.first)
        limits = place.unit or (torch.zeros(bands), torch.ones(bands), torch.zeros(bands))
        low, gain, fill = (t.numpy() for t in limits)
        self._unit = kernels.Unit(low, gain, fill, np.float32(place.missing), place.unit is not None)
        self._kinds: list[int] = []
        self._affine: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._turns: list[Tensor] = []
        self._blurs: list[tuple[Tensor, Tensor]] = []

    def measure(self) -> None:
        self._kinds.append(kernels.MEASURE)

    def settle(self, matrix: Tensor, bias: Tensor, of_means: Tensor | None) -> None:
        self._kinds.append(kernels.SETTLE)
        self._affine.append((matrix, bias, of_means))

    def hue(self, matrix: Tensor, bias: Tensor, of_means: Tensor | None, turns: Tensor) -> None:
        self._kinds.append(kernels.HUE)
        self._affine.append((matrix, bias, of_means))
        self._turns.append(turns)

    def blur(self, rows: Tensor | None, weights: Tensor) -> None:
        self._kinds.append(kernels.BLUR)
        far = weights.shape[1] // 2
        half = weights.new_zeros(len(self.out), 1 + -(-far // kernels.DISTANCES) * kernels.DISTANCES)
        half[slice(None) if rows is None else rows, : far + 1] = weights[:, far:]
        self._blurs.append((half, (half[:, 1:] >= TINY).sum(1)))

    def finish(
        self, matrix: Tensor, bias: Tensor, of_means: Tensor | None, low: Tensor, high: Tensor, mixes: bool
    ) -> None:
        self._kinds.append(kernels.FINISH)
        self._affine.append((matrix, bias, of_means))
        self._paint(low.numpy(), high.numpy())

    @property
    def values(self) -> Tensor:
        """(n, C, S, S), all that was noted being done."""
        self._paint(*np.empty((2, 0), np.float32))
        return self.out

    def now(self, values: Tensor) -> None:
        """Puts finished values in the place of all."""
        n, (height, width) = len(values), values.shape[-2:]
        whole = Frame.full(n, height, width)
        self._begin(Place(values, torch.arange(n), whole.boxes(), whole.codes()))

    def _paint(self, low: np.ndarray, high: np.ndarray) -> None:
        n, bands = self.out.shape[:2]
        none = torch.zeros(n, bands, bands)
        passes = kernels.Passes(
            np.array(self._kinds, np.int64),
            _stacked([matrix for matrix, _, _ in self._affine], none),
            _stacked([bias for _, bias, _ in self._affine], none[:, :, 0]),
            _stacked([none if of_means is None else of_means for _, _, of_means in self._affine], none),
            _stacked(self._turns, none[:, 0, 0]),
            _stacked([weights for weights, _ in self._blurs], none[:, 0]),
            _stacked([reach for _, reach in self._blurs], torch.zeros(n, dtype=torch.int64)),
            low,
            high,
        )
        over_samples(kernels.paint, n, self._images, self._unit, passes, self.out.flatten(1).numpy())


def _stacked(parts: list[Tensor], like: Tensor) -> np.ndarray:
    """(parts, n, ...), also of none, which are like `like`."""
    if len(parts) == 1:  # no copy
        return parts[0].contiguous().numpy()[None]
    return torch.stack(parts).numpy() if parts else like.new_empty(0, *like.shape).numpy()
