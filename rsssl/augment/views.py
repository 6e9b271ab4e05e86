"""From stored pixels to views: the object that the `augment` configs compose into, and the path of evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rsssl.augment.ops import Operation
from rsssl.augment.policy import Policy
from rsssl.augment.resample import unit_of
from rsssl.augment.with_torch import bounded
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

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
                f"augment.local: views={views} scale={scale} cannot be; type augment.local.views=4 "
                f"augment.local.scale=0.5"
            )
        self.policy, self.views, self.scale, self.multiple = Policy(operations), views, scale, multiple

    def size(self, full: int) -> int:
        """Pixels of their side beside full views of `full` pixels."""
        return max(1, round(full * self.scale / self.multiple)) * self.multiple

    def render(self, x: Tensor, ids: Tensor, preprocess: Preprocess, *, seed: int, epoch: int) -> Tensor:
        """The small views (L, B, C, s, s) that go with full views of `preprocess.size` pixels. See Views.render."""
        keys = [fold(seed, epoch, "local", view) for view in range(self.views)]
        return self.policy.views(x, ids, keys, preprocess.at(self.size(preprocess.size)))


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
        self, x: Tensor, ids: Tensor, preprocess: Preprocess, *, seed: int, epoch: int, views: int | Sequence[int]
    ) -> Tensor:
        """Random views of stored pixels. A view depends on (seed, epoch, its number, its sample's id and pixels) only.

        Args:
            x: (B, C, H, W) as in the pack (uint8, uint16, int16 or float32), on any device.
            ids: (B,) int64 numbers of the samples, best on the CPU.
            preprocess: what the stored numbers mean, the size of the views, and their standardisation.
            seed: of the random numbers.
            epoch: the pass over the data.
            views: how many (numbered from 0), or which.

        Returns:
            (V, B, C, size, size) float32.
        """
        kinds, numbers = len(self.policies), range(views) if isinstance(views, int) else views
        if kinds == 1:
            return self.policies[0].views(x, ids, [fold(seed, epoch, view) for view in numbers], preprocess)
        return torch.stack([self.policies[v % kinds](x, ids, fold(seed, epoch, v), preprocess) for v in numbers])

    def __repr__(self) -> str:
        return f"Views({self.policies})"


_AS_IT_IS = Policy()


def prepare(x: Tensor, preprocess: Preprocess) -> Tensor:
    """The path of evaluation, nothing random: stored x (B, C, H, W) -> float32 (B, C, size, size), standardised."""
    return _AS_IT_IS(x, torch.zeros(len(x), dtype=torch.int64), 0, preprocess)


def to_unit(x: Tensor, card: SensorCard) -> Tensor:
    """Stored values (B, C, H, W) -> float32 in 0..1 by the card's valid range; nodata becomes the band's mean."""
    if x.shape[1] != card.n_bands:
        raise ValueError(f"the images have {x.shape[1]} bands, the card {card.name} has {card.n_bands}")
    unit, missing = unit_of(card)
    low, gain, fill = (v.to(x.device) for v in unit)
    return bounded(x, (low, gain, fill), missing)
