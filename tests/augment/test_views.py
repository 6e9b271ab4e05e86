"""From stored pixels to views: valid ranges, nodata, the configs, and the path of evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from rsssl.augment import Grayscale, RandomAreaCrop, Resize, Symmetry, Views, prepare, symmetries, to_unit
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

CONF = Path(__file__).resolve().parents[2] / "conf" / "augment"
CONFIGS = sorted(p.stem for p in CONF.glob("*.yaml"))


def card(bands: int, dtype: str, low: float, high: float, nodata: float | None = None) -> SensorCard:
    return SensorCard(
        name="made",
        bands=tuple(f"b{i}" for i in range(bands)),
        dtype=dtype,
        low=(low,) * bands,
        high=(high,) * bands,
        nodata=nodata,
        mean=tuple(0.3 + 0.01 * i for i in range(bands)),
        std=(0.2,) * bands,
        classes=(),
        size=(40, 40),
    )


CASES = [
    (1, np.uint8, 0, 255, None),
    (3, np.uint8, 0, 255, None),
    (3, np.uint8, 0, 255, 0),
    (3, np.uint8, 10, 200, None),
    (13, np.uint16, 0, 10_000, 65_535),
    (3, np.uint16, 500, 60_000, 0),
    (13, np.int16, -100, 3_000, -9_999),
    (2, np.float32, -1.0, 1.0, -9_999.0),
]


def stored(bands: int, dtype: type, low: float, high: float, nodata: float | None, size: int = 40) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(0))
    margin = 0 if dtype is np.uint8 else (high - low) * 0.2
    info = (0, 0) if dtype is np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = rng.uniform(low - margin, high + margin, (6, bands, size, size))
    x = x.astype(dtype) if dtype is np.float32 else np.clip(x.round(), *info).astype(dtype)
    if nodata is not None:
        x[:, :, :5, :7] = nodata
    if dtype is np.float32:
        x[:, :, 10, 10] = np.nan
    return x


@pytest.mark.parametrize(("bands", "dtype", "low", "high", "nodata"), CASES)
def test_to_unit(bands: int, dtype: type, low: float, high: float, nodata: float | None) -> None:
    x = stored(bands, dtype, low, high, nodata)
    c = card(bands, np.dtype(dtype).name, low, high, nodata)
    expected = np.clip((x.astype(np.float64) - low) / (high - low), 0, 1)
    missing = np.isnan(expected) if nodata is None else np.isnan(expected) | (x == nodata)
    expected = np.where(missing, np.array(c.mean)[:, None, None], expected)
    np.testing.assert_allclose(to_unit(torch.from_numpy(x), c).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("bands", "dtype", "low", "high", "nodata"), CASES)
@pytest.mark.parametrize("size", [40, 24, 90])
def test_prepare(bands: int, dtype: type, low: float, high: float, nodata: float | None, size: int) -> None:
    x = torch.from_numpy(stored(bands, dtype, low, high, nodata))
    c = card(bands, np.dtype(dtype).name, low, high, nodata)
    mean, std = torch.linspace(0.1, 0.4, bands), torch.linspace(0.3, 0.5, bands)
    y = torch.nn.functional.interpolate(to_unit(x, c), (size, size), mode="bilinear", antialias=True)
    expected = (y - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(prepare(x, Preprocess(c, size, mean, std)), expected, atol=2e-5, rtol=0)
    views = Views(operations={})
    same = views.render(x, torch.arange(6), Preprocess(c, size, mean, std), seed=0, epoch=0, views=1)
    assert torch.equal(same[0], prepare(x, Preprocess(c, size, mean, std)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("bands", "dtype", "low", "high", "nodata"), [CASES[0], CASES[1], CASES[4], CASES[6]])
def test_configs(name: str, bands: int, dtype: type, low: float, high: float, nodata: float | None) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ") and len(text.splitlines()) <= 20
    views = instantiate(OmegaConf.create(text))
    x, c = (
        torch.from_numpy(stored(bands, dtype, low, high, nodata)),
        card(bands, np.dtype(dtype).name, low, high, nodata),
    )

    def render(rows: slice = slice(None), seed: int = 0, epoch: int = 0, view: int = 0) -> Tensor:
        # standardised by mean 0 and std 1, so that the values are those of 0..1
        return views.render(
            x[rows],
            torch.arange(6)[rows],
            Preprocess(c, 32, (0.0,) * bands, (1.0,) * bands),
            seed=seed,
            epoch=epoch,
            views=view + 1,
        )[view]

    first = render()
    assert first.shape == (6, bands, 32, 32) and first.dtype == torch.float32
    assert bool(first.isfinite().all()) and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, render())
    torch.testing.assert_close(render(slice(2, 4)), first[2:4], atol=2e-6, rtol=0)
    for other in (render(seed=1), render(epoch=1), render(view=1)):
        assert torch.equal(first, other) == (name == "none")


def test_every_policy_of_the_design_is_there() -> None:
    assert set(CONFIGS) >= {"s1", "s2", "s3", "s4", "s5", "s6", "paper_simclr", "simclr", "d4", "none", "rs"}


def test_view_v_takes_policy_v() -> None:
    views = instantiate(OmegaConf.load(CONF / "paper_simclr.yaml"))
    x, c = torch.from_numpy(stored(*CASES[1])), card(3, "uint8", 0, 255)
    assert [len(p.operations) for p in views.policies] == [2, 5]
    gray = Views(views=[{"crop": RandomAreaCrop()}, {"gray": Grayscale()}])
    made = gray.render(x, torch.arange(6), Preprocess(c, 40, (0,) * 3, (1,) * 3), seed=0, epoch=0, views=4)
    for view, y in enumerate(made):
        assert torch.allclose(y[:, 0], y[:, 1]) == (view % 2 == 1)


def test_resize_comes_before_the_crop() -> None:
    """S6's meaning: the box is drawn in the resized image, and the detail lost there stays lost."""
    views = Views(operations=[Resize(8), RandomAreaCrop(area=(0.2, 0.5))])
    x, c = torch.from_numpy(stored(*CASES[1], size=160)), card(3, "uint8", 0, 255)
    got = views.render(x, torch.arange(6), Preprocess(c, 32, (0,) * 3, (1,) * 3), seed=0, epoch=0, views=1)[0]
    small = torch.nn.functional.interpolate(x / 255, (40, 40), mode="bilinear", antialias=True)
    boxes = views.policies[0].draw(fold(0, 0, 0), torch.arange(6), 3, 160, 160, 32)
    for i in range(6):
        t, left, h, w = (int(boxes["RandomAreaCrop"][k][i]) for k in ("top", "left", "height", "width"))
        assert max(t + h, left + w) <= 40
        crop = small[i : i + 1, :, t : t + h, left : left + w]
        expected = torch.nn.functional.interpolate(crop, (32, 32), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(got[i], expected, atol=2e-6, rtol=0)


def test_symmetries_are_the_group() -> None:
    x = torch.rand(2, 3, 6, 6)
    eight = symmetries(x)
    assert eight.shape == (8, 2, 3, 6, 6) and torch.equal(eight[0], x)
    turns = [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]
    for y in turns:  # the eight are the four turns of the image and of its mirror image, each once
        assert sum(torch.equal(y, e) for e in eight) == 1
    for e in eight:  # closed: the symmetries of one of them are the same eight
        assert all(any(torch.equal(a, b) for b in eight) for a in symmetries(e))
    with pytest.raises(ValueError, match="square"):
        symmetries(torch.rand(1, 3, 4, 5))


def test_d4_moves_pixels_and_changes_none() -> None:
    x, c = torch.from_numpy(stored(*CASES[1])), card(3, "uint8", 0, 255)
    y = Views(operations=[Symmetry()]).render(
        x, torch.arange(6), Preprocess(c, 40, (0,) * 3, (1,) * 3), seed=3, epoch=0, views=1
    )[0]
    for i in range(6):
        assert sum(torch.equal((y[i] * 255).round(), s[0].float()) for s in symmetries(x[i : i + 1])) == 1


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="augment=none"):
        Views()
    with pytest.raises(UserError, match="either"):
        Views(operations={}, views=[{}])
    with pytest.raises(ValueError, match="13 bands, the card made has 3"):
        prepare(torch.zeros(1, 13, 8, 8), Preprocess(card(3, "float32", 0, 1), 8, (0,) * 3, (1,) * 3))
    with pytest.raises(ValueError, match="3 bands need"):
        Preprocess(card(3, "uint8", 0, 255), 8, (0.5,), (0.5,))
