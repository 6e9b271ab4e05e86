"""The preprocessing that travels with a network is the one that it was evaluated with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rsssl.augment import prepare
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import InputLayer, Preprocess

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.1, 0.3)
FORMS: dict[str, dict[str, Any]] = {
    "bytes": {"dtype": "uint8", "low": (0.0,) * 3, "high": (255.0,) * 3, "nodata": None},
    "bytes with nodata": {"dtype": "uint8", "low": (0.0,) * 3, "high": (255.0,) * 3, "nodata": 0},
    "uint16": {"dtype": "uint16", "low": (0.0, 100.0, 0.0), "high": (2000.0, 5000.0, 10000.0), "nodata": 65535},
    "int16": {"dtype": "int16", "low": (-50.0, -100.0, 0.0), "high": (2000.0, 100.0, 3000.0), "nodata": -9999},
    "float32": {"dtype": "float32", "low": (0.0, -25.0, -1.0), "high": (1.0, 0.0, 1.0), "nodata": -1.0},
    "float32 without nodata": {"dtype": "float32", "low": (0.0, -25.0, -1.0), "high": (1.0, 0.0, 1.0), "nodata": None},
}


def card(form: dict[str, Any], size: tuple[int, int]) -> SensorCard:
    return SensorCard("tiles", ("a", "b", "c"), mean=(0.2, 0.5, 0.7), std=STD, classes=(), size=size, **form)


def pixels(of: SensorCard) -> Tensor:
    """Beyond the valid range on both sides, with nodata, and with NaN where a type has it."""
    generator = torch.Generator().manual_seed(0)
    low, high = (torch.tensor(v)[:, None, None] for v in (of.low, of.high))
    x = low + (high - low) * (1.4 * torch.rand(2, 3, *of.size, generator=generator) - 0.2)
    if of.dtype != "float32":
        info = torch.iinfo(getattr(torch, of.dtype))
        x = x.round().clamp(info.min, info.max)
    if of.nodata is not None:
        x[:, :, :5, :7] = of.nodata
    if of.dtype == "float32":
        x[1, :, 9:12] = torch.nan
    return x.to(getattr(torch, of.dtype))


@pytest.mark.parametrize(
    "size", [(24, 24), (40, 40), (17, 17), (33, 50)], ids=["as it is", "smaller", "larger", "oblong"]
)
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_the_path_of_evaluation(form: str, size: tuple[int, int]) -> None:
    of = card(FORMS[form], size)
    x = pixels(of)
    side = min(size)
    square = x[..., :side, :side]  # `prepare` takes squares alone
    made = InputLayer(Preprocess(of, 24, MEAN, STD))
    torch.testing.assert_close(made(square), prepare(square, Preprocess(of, 24, MEAN, STD)), atol=2e-5, rtol=1e-4)
    assert made(x).shape == (2, 3, 24, 24) and made(x).dtype == torch.float32 and bool(made(x).isfinite().all())
    assert not made.state_dict()  # nothing that a weights file would have to hold


@pytest.mark.parametrize("form", FORMS)
def test_the_formula_written_out(form: str) -> None:
    of = card(FORMS[form], (24, 24))
    x, got = pixels(of), InputLayer(Preprocess(of, 24, MEAN, STD))(pixels(of))
    for b in range(3):
        raw = x[:, b].double()
        value = ((raw - of.low[b]) / (of.high[b] - of.low[b])).clamp(0, 1)
        value[raw.isnan() | (raw == (torch.nan if of.nodata is None else of.nodata))] = of.mean[b]
        torch.testing.assert_close(got[:, b].double(), (value - MEAN[b]) / STD[b], atol=2e-5, rtol=1e-4)
