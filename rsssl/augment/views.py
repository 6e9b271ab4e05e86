"""From stored pixels to views: the object that the `augment` configs compose into, and the path of evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsssl.augment.ops import Operation
from rsssl.augment.policy import Policy
from rsssl.augment.resample import Numbers, ToUnit
from rsssl.errors import UserError
from rsssl.rng import fold

if TYPE_CHECKING:
    from rsssl.models.card import SensorCard

Operations = Mapping[str, Operation] | Sequence[Operation]


class Local:
    """The small views of multi-crop (Caron et al. 2020, SwAV, arXiv 2006.09882, section 3.2).

    Args:
        operations: their policy.
        views: how many of each image.
        scale: their side as a share of the full views'.
        multiple: their side is a multiple of this many pixels (a transformer's patches).
    """

    def __init__(self, operations: Operations, views: int = 4, scale: float = 0.5, multiple: int = 16) -> None:
        if views < 1 or not 0 < scale <= 1:
            raise UserError(
                f"augment.local: views={views} scale={scale} cannot be; type augment.local.views=4 augment.local.scale=0.5"
            )
        self.policy, self.views, self.scale, self.multiple = Policy(operations), views, scale, multiple

    def size(self, full: int) -> int:
        """Pixels of their side beside full views of `full` pixels."""
        return max(1, round(full * self.scale / self.multiple)) * self.multiple

    def render(
        self, x: Tensor, ids: Tensor, card: SensorCard, *, seed: int, epoch: int, size: int, mean: Numbers, std: Numbers
    ) -> Tensor:
        """The small views (L, B, C, s, s) that go with full views of `size` pixels. See Views.render."""
        keys = [fold(seed, epoch, "local", view) for view in range(self.views)]
        return self.policy.views(x, ids, keys, self.size(size), mean, std, _converter(x, card))


class Views:
    """Random views of images: one policy for all of them (operations), or one for each in turn (views).

    In YAML, operations have names of the user's choice, so that `augment.operations.crop.p=0.5` and
    `~augment.operations.blur` work on the command line:

        _target_: rsssl.augment.Views
        operations:
          crop: {_target_: rsssl.augment.RandomAreaCrop, area: [0.4, 1.0], p: 0.8}
          flip: {_target_: rsssl.augment.Symmetry}

    or `views:` with a list of such mappings. View v uses policy v modulo their number. `local` adds small views for the
    methods that learn from them (multi-crop).
    """

    def __init__(
        self,
        operations: Operations | None = None,
        views: Sequence[Operations] | None = None,
        local: Local | None = None,
    ) -> None:
        lists = [operations] if operations is not None else list(views or [])
        if not lists or (operations is not None and views is not None):
            raise UserError(
                "augment: give either operations (all views alike) or views (a list, one for each view in turn); "
                "for no augmentation write augment=none"
            )
        self.policies = [Policy(ops) for ops in lists]
        self.local = local

    def render(
        self,
        x: Tensor,
        ids: Tensor,
        card: SensorCard,
        *,
        seed: int,
        epoch: int,
        views: int | Sequence[int],
        size: int,
        mean: Numbers,
        std: Numbers,
    ) -> Tensor:
        """Views 0 to views - 1, or those numbered, of stored pixels x (B, C, H, W) of samples ids (B,) -> float32
        (V, B, C, size, size).

        x as in the pack (uint8, uint16, int16 or float32), on any device; ids int64, best on the CPU. Values go to 0..1
        by the card's valid range, through the policy, and out as (value - mean) / std; mean and std (C,) in 0..1 units.
        A sample's view depends on (seed, epoch, the view's number, its id) and its own pixels only.
        """
        kinds, convert = len(self.policies), _converter(x, card)
        numbers = range(views) if isinstance(views, int) else views
        if kinds == 1:
            keys = [fold(seed, epoch, view) for view in numbers]
            return self.policies[0].views(x, ids, keys, size, mean, std, convert)
        made = [self.policies[v % kinds](x, ids, fold(seed, epoch, v), size, mean, std, convert) for v in numbers]
        return torch.stack(made)

    def __repr__(self) -> str:
        return f"Views({self.policies})"


_AS_IT_IS = Policy()


def prepare(x: Tensor, card: SensorCard, size: int, mean: Numbers, std: Numbers) -> Tensor:
    """The path of evaluation, nothing random: stored x (B, C, H, W) -> float32 (B, C, size, size), standardised.

    To 0..1 by the card's valid range, antialiased bilinear resize where the size differs, (value - mean) / std.
    """
    ids = torch.zeros(len(x), dtype=torch.int64)
    return _AS_IT_IS(x, ids, 0, size, mean, std, _converter(x, card))


def to_unit(x: Tensor, card: SensorCard) -> Tensor:
    """Stored values (B, C, H, W) -> float32 in 0..1 by the card's valid range; nodata becomes the band's mean."""
    if x.shape[1] != len(card.low):
        raise ValueError(f"the images have {x.shape[1]} bands, the card {card.name} has {len(card.low)}")
    return ToUnit(card.low, card.high, card.mean, card.nodata)(x)


def _converter(x: Tensor, card: SensorCard) -> ToUnit | None:
    """None for plain bytes, whose conversion is left to the end (a factor of the colour matrix)."""
    if x.shape[1] != len(card.low):
        raise ValueError(f"the images have {x.shape[1]} bands, the card {card.name} has {len(card.low)}")
    whole = card.nodata is None and all(v == 0 for v in card.low) and all(v == 255 for v in card.high)
    return None if x.dtype == torch.uint8 and whole else ToUnit(card.low, card.high, card.mean, card.nodata)
