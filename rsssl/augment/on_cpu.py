"""The passes over pixels on a CPU: numba's loops (kernels.py), on all threads. Imported through `ops.loops`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsssl.augment import kernels
from rsssl.augment.resample import Unit
from rsssl.augment.threads import over_samples

TINY = 2.0**-25  # a weight that a float32 sum of weights, which is 1, does not see


class Canvas:
    """Views being made. The passes are noted, and carried out view by view when the values are asked for, so that a view
    goes from its stored image to its place without leaving the processor's cache. See pixels.Canvas.

    Args:
        x: (B, C, H, W), of any type.
        index: (n,) the image of each view.
        boxes: (n, 4) int64: top, left, height, width, in pixels of the image resized to (first, first), or of the image
            itself where first is 0.
        codes: (n,) the symmetry of each view (see `turn`).
        first: see there.
        unit: what takes stored values to 0..1; None: they stay as they are.
        missing: the value that means "nothing here"; NaN for none.
        out: (n, C, S, S) float32, where the views go.
    """

    def __init__(
        self,
        x: Tensor,
        index: Tensor,
        boxes: Tensor,
        codes: Tensor,
        first: int,
        unit: Unit | None,
        missing: float,
        out: Tensor,
    ) -> None:
        self.out = out
        self._of(x, index, boxes, codes, first, unit, missing)

    def _of(
        self, x: Tensor, index: Tensor, boxes: Tensor, codes: Tensor, first: int, unit: Unit | None, missing: float
    ) -> None:
        """Begins with images, and no passes."""
        bands = x.shape[1]
        limits = unit or (torch.zeros(bands), torch.ones(bands), torch.zeros(bands))
        self._images = kernels.Images(
            (stored := x.contiguous().numpy()), stored.reshape(-1), index.numpy(), boxes.numpy(), codes.numpy(), first
        )
        self._unit = kernels.Unit(*(v.numpy() for v in limits), np.float32(missing), unit is not None)
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
        m, k = weights.shape
        n, room = len(self.out), 1 + (k // 2 + 2) // 3 * 3
        half = weights.new_zeros(n, room)
        half[slice(None) if rows is None else rows, : k // 2 + 1] = weights[:, k // 2 :]
        reach = (half >= TINY).sum(1)
        self._blurs.append((half, (reach - 1).clamp_min_(0)))

    def finish(
        self, matrix: Tensor, bias: Tensor, of_means: Tensor | None, low: Tensor, high: Tensor, mixes: bool
    ) -> None:
        self._kinds.append(kernels.FINISH)
        self._affine.append((matrix, bias, of_means))
        self._paint(low.numpy(), high.numpy())

    @property
    def values(self) -> Tensor:
        """(n, C, S, S), all that was noted being done."""
        self._paint(np.empty(0, np.float32), np.empty(0, np.float32))
        return self.out

    def now(self, values: Tensor) -> None:
        """Puts finished values in the place of all."""
        n, size = len(values), values.shape[-1]
        every, zero = torch.arange(n), torch.zeros(n, dtype=torch.int64)
        boxes = torch.tensor([0, 0, size, size]).repeat(n, 1)
        self._of(values, every, boxes, zero, 0, None, torch.nan)

    def _paint(self, low: np.ndarray, high: np.ndarray) -> None:
        n, bands = self.out.shape[:2]
        none = torch.zeros(n, bands, bands)
        matrix, bias = (_stacked([numbers[k] for numbers in self._affine], none.shape[: 3 - k]) for k in (0, 1))
        of_means = _stacked([none if m is None else m for _, _, m in self._affine], none.shape)
        weights, reach = (_stacked([blur[k] for blur in self._blurs], ((n, 4), (n,))[k]) for k in (0, 1))
        passes = kernels.Passes(
            np.array(self._kinds), matrix, bias, of_means, _stacked(self._turns, (n,)), weights, reach.astype(np.int64), low, high
        )
        over_samples(kernels.paint, n, self._images, self._unit, passes, self.out.flatten(1).numpy())


def _stacked(parts: list[Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """(parts, *shape); no copy of one alone."""
    if len(parts) == 1:
        return parts[0].contiguous().numpy()[None]
    return np.stack([part.numpy() for part in parts]) if parts else np.empty((0, *shape), np.float32)
