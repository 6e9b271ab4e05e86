"""Operations on where a pixel comes from. A policy turns all of them into one resampling (see resample.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsssl.augment.ops import Operation, Params, interval
from rsssl.augment.resample import Frame, turn
from rsssl.errors import UserError
from rsssl.rng import uniform

_TRIES = 10  # as in torchvision's RandomResizedCrop


class Resize(Operation):
    """Resize the whole image to (size + extra, size + extra) before the crop; a policy's first operation.

    Not the same as the crop alone: a crop from a 600 px image keeps detail that one from its 254 px version has lost.
    The crop's box counts pixels of the resized image. The two resamplings are carried out as one where matrix products
    are used (both are linear), and one after the other elsewhere.

    Args:
        extra: pixels by which a side is larger than the view's.
    """

    def __init__(self, extra: int = 30) -> None:
        super().__init__(1.0)
        if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
            raise UserError(f"augment: Resize(extra={extra!r}) is not a number of pixels; write extra: 30")
        self.extra = extra

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        return {}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        return _resized(x, size + self.extra)


class RandomAreaCrop(Operation):
    """Crop a box of random area and aspect (width / height), resized to the view; torchvision's RandomResizedCrop.

    A box that does not fit is drawn again, ten times at most, then it is the largest central one of an aspect in the
    range. A sample that is not drawn (probability 1 - p) keeps its whole frame, resized.

    Args:
        area: range of the box's share of the image, drawn uniformly.
        aspect: range of width / height, drawn uniformly in the logarithm.
        p: probability that it happens, drawn for each sample.
    """

    def __init__(
        self, area: Sequence[float] = (0.2, 1.0), aspect: Sequence[float] = (3 / 4, 4 / 3), p: float = 1.0
    ) -> None:
        super().__init__(p)
        self.area = interval(self, "area", area, 0.0, 1.0, "[0.2, 1.0]")
        self.aspect = interval(self, "aspect", aspect, 0.0, 100.0, "[0.75, 1.3333]")

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        u = uniform(key, ids, 3 + 2 * _TRIES).double().numpy()  # (B, 23); so small a thing costs less with numpy
        area = height * width * _between(u[:, 3 : 3 + _TRIES], *self.area)  # (B, tries)
        aspect = np.exp(_between(u[:, 3 + _TRIES :], math.log(self.aspect[0]), math.log(self.aspect[1])))
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
        pick = np.arange(len(u)), fits.argmax(1)  # the first that fits
        some_fits = fits[pick]
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])
        w = np.where(some_fits, w[pick], max(1, min(width, round(height * ratio))))
        h = np.where(some_fits, h[pick], max(1, min(height, round(width / ratio))))
        top = np.where(some_fits, np.floor(u[:, 1] * (height - h + 1)), (height - h) // 2)
        left = np.where(some_fits, np.floor(u[:, 2] * (width - w + 1)), (width - w) // 2)
        box, whole = np.stack([top, left, h, w]), np.array([[0], [0], [height], [width]])
        drawn = torch.from_numpy(np.where(u[:, 0] < self.p, box, whole).astype(np.int64))
        return dict(zip(("top", "left", "height", "width"), drawn, strict=True))

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        out = []
        for i in range(len(x)):
            top, left, h, w = (int(params[name][i]) for name in ("top", "left", "height", "width"))
            out.append(_resized(x[i : i + 1, :, top : top + h, left : left + w], size))
        return torch.cat(out)

    def frame(self, params: Params, frame: Frame) -> Frame:
        return frame._replace(**{k: params[k] for k in ("top", "left", "height", "width")})


class Symmetry(Operation):
    """Flips, then a rotation by a multiple of 90 degrees; an aerial image has no up.

    All flips and rotations are equally likely. With both, each of the square's eight symmetries has probability 1/8.

    Args:
        p: probability that it happens, for both together, drawn for each sample.
        flips: True for none, left-right, up-down or both; "horizontal" for none or left-right; False for none.
        quarter_turns: rotate by 0, 90, 180 or 270 degrees.
    """

    def __init__(self, p: float = 1.0, flips: bool | str = True, quarter_turns: bool = True) -> None:
        super().__init__(p)
        if not isinstance(flips, bool) and flips != "horizontal":
            raise UserError(
                f"augment: Symmetry(flips={flips!r}) is not known; write flips: true, flips: false or flips: horizontal"
            )
        self.flips = flips
        self.quarter_turns = bool(quarter_turns)

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        u = uniform(key, ids, 4)
        on = u[:, 0] < self.p
        none = torch.zeros_like(on)
        return {
            "flip_h": on & (u[:, 1] < 0.5) if self.flips else none,
            "flip_v": on & (u[:, 2] < 0.5) if self.flips is True else none,
            "turns": torch.where(on, (u[:, 3] * 4).long(), 0) if self.quarter_turns else none.long(),
        }

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        out = []
        for i in range(len(x)):
            y = x[i]
            if params["flip_h"][i]:
                y = y.flip(-1)
            if params["flip_v"][i]:
                y = y.flip(-2)
            out.append(torch.rot90(y, int(params["turns"][i]), (-2, -1)))
        return torch.stack(out)

    def frame(self, params: Params, frame: Frame) -> Frame:
        """`frame` with this symmetry after its own."""
        flip_v, flip_h = frame.flip_v ^ params["flip_v"], frame.flip_h ^ params["flip_h"]
        turns = params["turns"]
        odd = turns % 2 == 1
        # a quarter turn is a transposition, then a flip of the rows (of the columns for three of them); transposing a
        # flipped image is flipping the transposed one along the other axis
        flip_v, flip_h = torch.where(odd, flip_h, flip_v), torch.where(odd, flip_v, flip_h)
        flip_v = flip_v ^ ((turns == 1) | (turns == 2))
        flip_h = flip_h ^ ((turns == 3) | (turns == 2))
        return frame._replace(transpose=frame.transpose ^ odd, flip_v=flip_v, flip_h=flip_h)


def symmetries(x: Tensor) -> Tensor:
    """The eight symmetries of square images: x (B, C, S, S) -> (8, B, C, S, S); the first is x itself.

    For test-time augmentation: ``probabilities(symmetries(x).flatten(0, 1)).unflatten(0, (8, -1)).mean(0)``.
    """
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"symmetries need square images, not {tuple(x.shape)}")
    return torch.stack([turn(x, k) for k in range(8)])


def _between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True) if x.shape[-2:] != (size, size) else x
