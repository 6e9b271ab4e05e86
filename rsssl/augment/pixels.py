"""What is done to the pixels of views once they are resampled, in as few passes as it can be.

It is made up first (`Pixels`), from the parameters of the samples on the CPU; carried out afterwards (`Canvas`), on any
device. So all numbers of a batch go to an accelerator in one copy (`upload`), and nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rsssl.augment.resample import Place

if TYPE_CHECKING:
    from rsssl.augment.ops import Params, PixelOperation

Numbers = Sequence[Tensor | None]


class Affine(NamedTuple):
    """value -> matrix @ value + of_means @ means + bias, for each sample; `means` are those of the view's bands when
    they were last measured. In float64, so that the order in which operations are joined does not show in the views.

    Args:
        matrix: (n, C, C).
        bias: (n, C).
        of_means: (n, C, C); None where the means play no part.
    """

    matrix: Tensor
    bias: Tensor
    of_means: Tensor | None

    @staticmethod
    def scaling(bands: int, factor: float) -> Affine:
        """The same for all samples: n is 1 until something else is joined to it."""
        matrix = torch.eye(bands, dtype=torch.float64).mul_(factor)[None]
        return Affine(matrix, torch.zeros(1, bands, dtype=torch.float64), None)

    def numbers(self, n: int) -> Numbers:
        """The three in float32, for a pass over the pixels of n samples."""
        return [None if t is None else t.float().expand(n, *t.shape[1:]) for t in self]

    def gain(self, factor: Tensor, offset: Tensor | float = 0.0) -> Affine:
        """Then value -> factor * value + offset; factor and offset (n or 1, 1 or C)."""
        each = factor[:, :, None]
        of_means = None if self.of_means is None else self.of_means * each
        return Affine(self.matrix * each, self.bias * factor + offset, of_means)

    def blend(self, share: Tensor, weights: Tensor) -> Affine:
        """Then value -> share * value + (1 - share) * gray, gray being weights (C,) @ value in every band; share
        (n or 1,)."""
        share, weights = share.double()[:, None], weights.double()

        def blended(t: Tensor) -> Tensor:  # (n, C, C), by columns, or (n, C, 1)
            return torch.lerp((weights @ t)[:, None], t, share[:, :, None])

        of_means = None if self.of_means is None else blended(self.of_means)
        return Affine(blended(self.matrix), blended(self.bias[:, :, None])[:, :, 0], of_means)

    def contrast(self, factor: Tensor, weights: Tensor | None) -> Affine:
        """Then value -> centre + factor * (value - centre), the centre being the means as they are at this point, or
        weights (C,) @ the means in every band; factor (n, 1 or C)."""
        through = self.matrix if self.of_means is None else self.matrix + self.of_means  # from the means as measured
        centre = Affine(through, self.bias, None)  # what the means have become: (n, C, C) and (n, C)
        if weights is not None:
            centre = centre.blend(torch.zeros(1), weights)
        kept, rest = self.gain(factor), centre.gain(1 - factor)
        of_means = rest.matrix if kept.of_means is None else kept.of_means + rest.matrix
        return Affine(kept.matrix, kept.bias + rest.bias, of_means)


class Step(NamedTuple):
    """A pass over the pixels: `run(canvas, *numbers)`, the numbers being on its device by then."""

    numbers: Numbers
    run: Callable[..., None]


class Pixels:
    """What is to be done to n views (n, C, S, S): passes, and after them what `affine` says.

    Brightness, contrast, saturation, grayscale and the standardisation are all of that form, so they cost a product of
    small matrices each, and one pass over the pixels in the end.

    Args:
        n: views.
        bands: C.
        size: S, their side.
        scale: brings the values to 0..1 units, e.g. 1/255 for the bytes themselves.
    """

    def __init__(self, n: int, bands: int, size: int, scale: float = 1.0) -> None:
        self.n, self.bands, self.size = n, bands, size
        self.steps: list[Step] = []
        self.affine, self.measured = Affine.scaling(bands, scale), False

    def gain(self, factor: Tensor, offset: Tensor | float = 0.0) -> None:
        """value -> factor * value + offset; factor and offset (n or 1, 1 or C)."""
        self.affine = self.affine.gain(factor, offset)

    def blend(self, share: Tensor, weights: Tensor) -> None:
        """value -> share * value + (1 - share) * gray with gray weights (C,) @ value in every band; share (n,)."""
        self.affine = self.affine.blend(share, weights)

    def contrast(self, factor: Tensor, weights: Tensor | None) -> None:
        """value -> centre + factor * (value - centre) with each band's mean as its centre, or weights (C,) @ the means
        as the centre of all."""
        if not self.measured:
            if self.affine.of_means is not None:  # of means from before a pass that has changed them
                self.settle()
            self.steps.append(Step((), lambda canvas: canvas.measure()))
            self.measured = True
        self.affine = self.affine.contrast(factor, weights)

    def hue(self, turns: Tensor) -> None:
        """Three bands: the hue rotated by turns (n,). It is not linear: what was still to be done is done first."""
        self._pass((*self.affine.numbers(self.n), turns), lambda canvas, *numbers: canvas.hue(*numbers), settled=True)

    def blur(self, rows: Tensor | None, weights: Tensor) -> None:
        """The views rows (m,), all where None, along rows and columns with weights (m, k) of a sum of one, which
        commute with what is still to be done."""
        self._pass((rows, weights), lambda canvas, *numbers: canvas.blur(*numbers), settled=False)

    def settle(self) -> None:
        """What is still to be done is done."""
        self._pass(self.affine.numbers(self.n), lambda canvas, *numbers: canvas.settle(*numbers), settled=True)

    def apply(self, operation: PixelOperation, params: Params) -> None:
        """A pass of an operation of any kind, on values in 0..1 units."""
        self.settle()
        names = list(params)

        def run(canvas: Canvas, *values: Tensor) -> None:
            canvas.now(operation.apply(canvas.values, dict(zip(names, values, strict=True)), self.size))

        self._pass(tuple(params.values()), run, settled=True)

    def finish(self, mean: Tensor, std: Tensor, mixes: bool) -> None:
        """Standardises by mean and std (C,), and clamps at what were 0 and 1; `mixes`: see `PixelOperation.mixes`."""
        self.gain((1 / std)[None], (-mean / std)[None])
        bounds = -mean / std, (1 - mean) / std

        def run(
            canvas: Canvas, matrix: Tensor, bias: Tensor, of_means: Tensor | None, low: Tensor, high: Tensor
        ) -> None:
            canvas.finish(matrix, bias, of_means, low, high, mixes)

        self.steps.append(Step((*self.affine.numbers(self.n), *bounds), run))

    def _pass(self, numbers: Numbers, run: Callable[..., None], settled: bool) -> None:
        self.steps.append(Step(numbers, run))
        self.measured = False
        if settled:
            self.affine = Affine.scaling(self.bands, 1.0)


class Canvas:
    """Views being made on a device, one pass over all of them after another. On a CPU with numba, on_cpu.Canvas does
    the same view by view.

    Args:
        loops: the passes for this device (with_torch or on_gpu).
        place: where the views come from.
        out: where they go, (n, C, S, S) float32.
    """

    def __init__(self, loops: Any, place: Place, out: Tensor) -> None:
        self.loops, self.out = loops, out
        self.values, self.means = loops.resample(place, out)  # the means of the bands, (n, C), or None
        self.current = self.means is not None  # whether the means are those of the values

    def measure(self) -> None:
        """Takes the means of the bands as they are now."""
        if not self.current:
            self.means, self.current = self.values.mean((2, 3)), True

    def settle(self, matrix: Tensor, bias: Tensor, of_means: Tensor | None) -> None:
        """values -> matrix (n, C, C) @ values + bias (n, C) + of_means (n, C, C) @ means."""
        bias, x = self._bias(bias, of_means), self.values
        self.now(torch.baddbmm(bias[:, :, None], matrix, x.flatten(2)).view(x.shape))

    def hue(self, matrix: Tensor, bias: Tensor, of_means: Tensor | None, turns: Tensor) -> None:
        """The same for three bands, the hue rotated by turns (n,) after it."""
        self.now(self.loops.hue(self.values, matrix, self._bias(bias, of_means), turns))

    def blur(self, rows: Tensor | None, weights: Tensor) -> None:
        """The views rows (m,), all where None, along rows and columns with weights (m, k), which are symmetric. The
        means stay those from before: what is still to be done speaks of them."""
        self.values, self.current = self.loops.blur(self.values, rows, weights), False

    def finish(
        self, matrix: Tensor, bias: Tensor, of_means: Tensor | None, low: Tensor, high: Tensor, mixes: bool
    ) -> None:
        """As `settle`, kept between low and high (C,), into out. `mixes`: False where the matrices are diagonal."""
        self.loops.finish(self.values, matrix, self._bias(bias, of_means), mixes, low, high, self.out)

    def _bias(self, bias: Tensor, of_means: Tensor | None) -> Tensor:
        if of_means is None:
            return bias
        assert self.means is not None
        return torch.baddbmm(bias[:, :, None], of_means, self.means[:, :, None])[:, :, 0]

    def now(self, values: Tensor) -> None:
        """Puts finished values in the place of all."""
        self.values, self.current = values, False


def upload(numbers: Numbers, device: torch.device) -> list[Any]:
    """Tensors of the CPU on a device, which takes one copy and is not waited for."""
    if device.type == "cpu":
        return list(numbers)
    flat = [None if t is None else t.contiguous().view(-1).view(torch.uint8) for t in numbers]
    ends, places = 0, []
    for part in flat:
        places.append(ends)
        ends += 0 if part is None else -(-len(part) // 16) * 16
    packed = torch.empty(ends, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for part, place in zip(flat, places, strict=True):
        if part is not None:
            packed[place : place + len(part)] = part
    there = packed.to(device, non_blocking=True)
    return [
        None if t is None else there[place : place + t.nbytes].view(t.dtype).view(t.shape)
        for t, place in zip(numbers, places, strict=True)
    ]
