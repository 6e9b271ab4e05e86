"""The compiled loops of the CPU give the views that torch's operations give, for images and views of odd shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.augment import Blur, Colour, Grayscale, PixelOperation, Policy, RandomAreaCrop, Resize, Symmetry, ops
from rsssl.augment.ops import Params
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess


class Squared(PixelOperation):
    """An operation of a user's own, which has no loop."""

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        return {"share": torch.full((len(ids),), 0.5)}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        return torch.lerp(x, x * x, params["share"][:, None, None, None])


OPERATIONS = [
    RandomAreaCrop((0.05, 1.0), p=0.9),
    Symmetry(),
    Colour(0.4, 0.4, 0.4, 0.1, p=0.8),
    Blur(kind="gaussian", p=0.5),
    Grayscale(p=0.3),
]


def both(policy: Policy, x: Tensor, how: Preprocess, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    compiled = ops._compiled
    made = []
    for own in (compiled, lambda name: None):
        monkeypatch.setattr(ops, "_compiled", own)
        made.append(policy.views(x, torch.arange(len(x)), [1, 2], how))
    return made


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (3, 2), (33, 17), (90, 64)])
def test_odd_shapes(height: int, width: int, size: int, loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loops == "torch":
        pytest.skip("it compares the two")
    for bands, dtype, nodata, first in ((3, "uint8", None, False), (6, "uint16", 9.0, True)):
        x = torch.from_numpy(np.random.default_rng(size).integers(0, 256, (8, bands, height, width)).astype(dtype))
        each = [(v,) * bands for v in ("b", 0.0, 255.0 if nodata is None else 200.0, 0.4, 0.2)]
        card = SensorCard("t", each[0], dtype, each[1], each[2], nodata, each[3], each[4], (), (1, 1))
        kept = [o for o in OPERATIONS if size >= 3 or not isinstance(o, Blur)]  # a blur is wider than such a view
        for more in ([], [Squared(), Colour(contrast=0.5)]):
            policy = Policy([*([Resize(5)] if first else []), *kept, *more])
            made = both(policy, x, Preprocess(card, size, (0.3,) * bands, (0.5,) * bands), monkeypatch)
            torch.testing.assert_close(*made, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kernel", [5, 7, 15, 31])
def test_wide_blurs(kernel: int, loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the loops leave out the weights that float32 does not see, and take the others three at a time."""
    if loops == "torch":
        pytest.skip("it compares the two")
    x = torch.rand(6, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    card = SensorCard("t", ("a", "b"), "float32", (0.0,) * 2, (1.0,) * 2, None, (0.4,) * 2, (0.2,) * 2, (), (1, 1))
    for kind in ("mean", "gaussian"):
        policy = Policy([Blur(kernel, kind, sigma=(0.05, 6.0), p=0.8)])
        made = both(policy, x, Preprocess(card, 16, (0.0,) * 2, (1.0,) * 2), monkeypatch)
        torch.testing.assert_close(*made, atol=2e-6, rtol=0)
