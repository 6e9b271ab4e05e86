"""Whole policies against torchvision at three bands, and what holds at any number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rsssl.augment import Blur, Colour, Views
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

CONF = Path(__file__).resolve().parents[2] / "conf" / "augment"
MEAN, STD = (0.48, 0.45, 0.41), (0.23, 0.22, 0.24)
SIZE = 40


def views_of(name: str) -> Views:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")


def card(bands: int, dtype: str, high: float, nodata: float | None = None) -> SensorCard:
    return SensorCard(
        "made",
        tuple(f"b{i}" for i in range(bands)),
        dtype,
        (0.0,) * bands,
        (high,) * bands,
        nodata,
        (0.4,) * bands,
        (0.2,) * bands,
        (),
        (64, 64),
    )


def one_by_one(x: Tensor, p: dict[str, dict[str, Tensor]], i: int, blur: str) -> Tensor:
    """x (3, H, W) in 0..1 through torchvision's functions, with the parameters drawn for sample i."""
    box = [int(p["crop"][k][i]) for k in ("top", "left", "height", "width")]
    x = tv.resized_crop(x, *box, size=[SIZE, SIZE], antialias=True)
    x = tv.horizontal_flip(x) if p["flip"]["flip_h"][i] else x
    x = tv.vertical_flip(x) if p["flip"]["flip_v"][i] else x
    x = tv.rotate(x, 90.0 * int(p["flip"]["turns"][i]))
    for name in ("brightness", "contrast", "saturation", "hue"):
        x = getattr(tv, f"adjust_{name}")(x, float(p["colour"][name][i]))
    x = tv.rgb_to_grayscale(x, 3) if p["gray"]["on"][i] else x
    if p["blur"]["on"][i] and blur == "gaussian":
        x = tv.gaussian_blur(x, [3, 3], [float(p["blur"]["sigma"][i])] * 2)
    elif p["blur"]["on"][i]:
        x = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return tv.normalize(x, list(MEAN), list(STD))


@pytest.mark.parametrize("name", ["s5", "simclr"])
def test_a_whole_policy_is_torchvisions(name: str) -> None:
    """The paper's policy and SimCLR's, from YAML, standardised at the end; of little contrast, so that torchvision,
    which clamps after every step, clamps nothing."""
    views = views_of(name)
    colour, blur = (views.policies[0].operations[k] for k in ("colour", "blur"))
    assert (
        isinstance(colour, Colour)
        and isinstance(blur, Blur)
        and blur.kind == ("gaussian" if name == "simclr" else "mean")
    )
    colour.brightness = colour.contrast = colour.saturation = 0.4
    blur.kernel = 3
    x = torch.randint(115, 140, (32, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ids = torch.arange(32) + 5
    made = views.render(x, ids, Preprocess(card(3, "uint8", 255), SIZE, MEAN, STD), seed=4, epoch=2, views=2)
    for v, view in enumerate(made):
        drawn = views.policies[0].draw(fold(4, 2, v), ids, 3, 64, 64, SIZE)
        happened = [int(drawn["gray"]["on"].sum()), int(drawn["blur"]["on"].sum()), int(drawn["flip"]["flip_h"].sum())]
        assert all(0 < n < 32 for n in happened)
        expected = torch.stack([one_by_one(x[i] / 255, drawn, i, blur.kind) for i in range(32)])
        torch.testing.assert_close(view, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml")))
@pytest.mark.parametrize(("bands", "high"), [(3, 255.0), (13, 10000.0)])
def test_values_stay_in_range_and_are_standardised_last(name: str, bands: int, high: float) -> None:
    """From images of extremes, black, white, beyond the valid range and without data."""
    random = np.random.default_rng(0)
    dtype, nodata = ("uint8", None) if bands == 3 else ("uint16", 65535)
    pixels = random.choice([0, int(high) // 2, int(high), 255 if bands == 3 else 12000], (8, bands, 48, 48)).astype(
        dtype
    )
    if nodata is not None:
        pixels[:, :, :6] = nodata
    mean, std = tuple(np.linspace(0.2, 0.7, bands)), tuple(np.linspace(0.1, 0.4, bands))

    def render(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        made = views_of(name).render(
            torch.from_numpy(pixels),
            torch.arange(8),
            Preprocess(card(bands, dtype, high, nodata), 32, mean, std),
            seed=0,
            epoch=0,
            views=2,
        )
        return made.double()

    unit, standardised = render((0.0,) * bands, (1.0,) * bands), render(mean, std)
    assert float(unit.min()) >= 0 and float(unit.max()) <= 1 and float(unit.std()) > 0.05
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    torch.testing.assert_close(standardised, (unit - m) / s, atol=1e-4, rtol=0)
