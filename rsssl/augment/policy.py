"""A policy is a list of operations; here it is run in as few passes over the pixels as it can be.

    stored values -> [one resampling: resize, crop, flip, turn] -> [hue; blur of the samples drawn]
                  -> [one matrix and bias per sample: brightness, contrast, saturation, grayscale, standardisation]
                  -> clamp

The values are clamped to 0..1 once, at the end (torchvision clamps after every operation: the two differ only where
an intermediate value leaves 0..1, e.g. a bright pixel made brighter, then darker again, which keeps its value here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rsssl.augment.geometry import RandomAreaCrop, Resize, Symmetry
from rsssl.augment.ops import Operation, Params, PixelOperation, canvas
from rsssl.augment.pixels import Pixels, upload
from rsssl.augment.resample import Frame, Place, unit_of
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

PART = 256 << 20  # bytes of views made at a time


class Policy:
    """Operations in order, by name (a mapping, as in YAML) or as a list. An empty policy resizes and standardises.

    A sample's draws depend on (key, its id, the operation's name) only: not on its batch, its place in it, the device
    or the other operations. Resize comes first, then RandomAreaCrop (at most one each), then the rest in any order.
    """

    def __init__(self, operations: Mapping[str, Operation] | Sequence[Operation] = ()) -> None:
        self.operations = _named(operations)
        for i, op in enumerate(self.operations.values()):
            earlier = list(self.operations.values())[:i]
            late_crop = isinstance(op, RandomAreaCrop) and any(not isinstance(o, Resize) for o in earlier)
            if late_crop or (isinstance(op, Resize) and earlier):
                raise UserError(
                    f"augment: {type(op).__name__} comes after {type(earlier[-1]).__name__}; list Resize first, "
                    "then one RandomAreaCrop, then the other operations"
                )
        self._pixel_ops = {n: o for n, o in self.operations.items() if isinstance(o, PixelOperation)}
        self._resize = next((o for o in self.operations.values() if isinstance(o, Resize)), None)

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int, size: int) -> dict[str, Params]:
        """The parameters of every operation for samples ids (B,), on the CPU."""
        if self._resize is not None:
            height = width = size + self._resize.extra
        ids = ids.to("cpu", torch.int64)
        return {name: op.draw(fold(key, name), ids, bands, height, width) for name, op in self.operations.items()}

    def __call__(self, x: Tensor, ids: Tensor, key: int, preprocess: Preprocess) -> Tensor:
        """One view of each image of x: `views` with one key, (B, C, size, size)."""
        return self.views(x, ids, [key], preprocess)[0]

    @torch.no_grad()
    def views(self, x: Tensor, ids: Tensor, keys: Sequence[int], preprocess: Preprocess) -> Tensor:
        """A view for each of V keys of the same images.

        Args:
            x: (B, C, H, W) stored pixels, of any type and on any device.
            ids: (B,) int64 numbers of the samples.
            keys: V keys of the random numbers.
            preprocess: what the stored numbers mean, the size of the views, and their standardisation.

        Returns:
            (V, B, C, size, size) float32.
        """
        b, c, height, width = x.shape
        if c != preprocess.card.n_bands:
            raise ValueError(
                f"the images have {c} bands, the card {preprocess.card.name} has {preprocess.card.n_bands}"
            )
        size = preprocess.size
        draws = [self.draw(key, ids, c, height, width, size) for key in keys]
        params = {name: {k: torch.cat([d[name][k] for d in draws]) for k in draws[0][name]} for name in self.operations}
        index = torch.arange(b).repeat(len(keys))
        out = torch.empty((len(index), c, size, size), device=x.device)
        parts = -(-4 * out.numel() // PART) if x.device.type == "cpu" else 1
        with torch.autocast(x.device.type, enabled=False):
            for part in range(parts):
                rows = slice(len(index) * part // parts, len(index) * (part + 1) // parts)
                mine = {name: {k: v[rows] for k, v in op.items()} for name, op in params.items()}
                self._render(x, index[rows], mine, preprocess, out[rows])
        return out.unflatten(0, (len(keys), b))

    def _render(self, x: Tensor, index: Tensor, params: dict[str, Params], preprocess: Preprocess, out: Tensor) -> None:
        """Views of images index (n,) of x into out (n, C, size, size)."""
        (n, bands, size), (height, width) = out.shape[:3], x.shape[-2:]
        first = 0 if self._resize is None else size + self._resize.extra
        frame, unit, missing = Frame.full(n, first or height, first or width), None, torch.nan
        for name, op in self.operations.items():
            if isinstance(op, (RandomAreaCrop, Symmetry)):
                frame = op.frame(params[name], frame)
        if plain := whole_bytes(x, preprocess.card):  # whose conversion is a factor of the colour matrix
            pixels = Pixels(n, bands, size, 1 / 255)
        else:
            pixels, (unit, missing) = Pixels(n, bands, size), unit_of(preprocess.card)
        for name, pixel_op in self._pixel_ops.items():
            pixel_op.fuse(pixels, params[name])
        pixels.finish(*bands_of(preprocess), mixes=any(op.mixes for op in self._pixel_ops.values()))

        placing = (index, frame.boxes(), frame.codes(), *(() if plain else unit or ()))
        numbers = iter(upload([*placing, *(t for step in pixels.steps for t in step.numbers)], out.device))
        index, boxes, codes, *limits = (next(numbers) for _ in placing)
        views = canvas(Place(x, index, boxes, codes, first, tuple(limits) or None, missing), out)
        for step in pixels.steps:
            step.run(views, *(next(numbers) for _ in step.numbers))

    @torch.no_grad()
    def plain(self, x: Tensor, ids: Tensor, key: int, preprocess: Preprocess) -> Tensor:
        """What `__call__` computes, one operation after another: the definition. x holds floats in 0..1."""
        size = preprocess.size
        params = self.draw(key, ids, x.shape[1], x.shape[2], x.shape[3], size)
        for name, op in self.operations.items():
            x = op.apply(x, {k: v.to(x.device) for k, v in params[name].items()}, size)
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        mean, std = (v.to(x.device) for v in bands_of(preprocess))
        return (x.clamp(0, 1) - mean[:, None, None]) / std[:, None, None]

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}={op!r}' for name, op in self.operations.items())})"


def bands_of(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Mean and std of the standardisation, (C,) float32 each, on the CPU."""
    return torch.tensor(preprocess.mean, dtype=torch.float32), torch.tensor(preprocess.std, dtype=torch.float32)


def whole_bytes(x: Tensor, card: SensorCard) -> bool:
    """Whether stored pixels are bytes of which each value counts."""
    return x.dtype == torch.uint8 and card.nodata is None and set(card.low) == {0} and set(card.high) == {255}


def _named(operations: Mapping[str, Operation] | Sequence[Operation]) -> dict[str, Operation]:
    if isinstance(operations, Mapping):
        named = {str(name): op for name, op in operations.items() if op is not None}  # null drops an inherited one
    else:
        named = {}
        for op in operations:
            base = type(op).__name__
            same = sum(name.split("#")[0] == base for name in named)
            named[f"{base}#{same}" if same else base] = op
    for name, op in named.items():
        if not isinstance(op, (Resize, RandomAreaCrop, Symmetry, PixelOperation)):
            raise UserError(
                f"augment: {name} is {op!r}, not an operation (your own extend rsssl.augment.PixelOperation); "
                "give it a _target_, e.g. _target_: rsssl.augment.Grayscale"
            )
    return named
