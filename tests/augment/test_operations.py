"""At three bands every operation equals torchvision v2 on the parameters it drew, fused or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from rsssl.augment import BandGain, Blur, Colour, Grayscale, Policy, RandomAreaCrop, Symmetry
from rsssl.augment.ops import Operation, Params
from rsssl.augment.with_torch import hue_rotated
from rsssl.errors import UserError
from tests.augment.cards import pre

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # standardisation that does nothing
SIZE = 48


def images(b: int = 24, size: int = 64, bands: int = 3) -> Tensor:
    """Bytes: smooth shapes with noise, some pixels gray, some black or white."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(b, bands, 6, 6, generator=g)
    x = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic") * 1.2 - 0.1
    x = x + 0.1 * torch.randn(x.shape, generator=g)
    x[:, :, :8, :8] = x[:, :1, :8, :8]
    x[:, :, 8:10], x[:, :, 10:12] = 0.0, 1.0
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def compare(op: Operation, size: int, reference: Callable[[Tensor, Params], Tensor]) -> None:
    """reference(one image (3, H, W) float in 0..1, its parameters) against the plain and the fused form."""
    x = images()
    ids = torch.arange(len(x)) + 100
    policy = Policy([op])
    params = next(iter(policy.draw(7, ids, 3, 64, 64, size).values()))
    expected = torch.stack([reference(x[i] / 255, {k: v[i] for k, v in params.items()}) for i in range(len(x))])
    plain = policy.plain(x / 255, ids, 7, pre(x / 255, size, ZERO, ONE))
    fused, from_bytes = (
        policy(x / 255, ids, 7, pre(x / 255, size, ZERO, ONE)),
        policy(x, ids, 7, pre(x, size, ZERO, ONE)),
    )
    for got in (plain, fused, from_bytes):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("size", [32, 48, 64, 200])  # products up to 64, interpolation at 200
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_crop(size: int, p: float) -> None:
    def reference(x: Tensor, d: Params) -> Tensor:
        box = [int(d[k]) for k in ("top", "left", "height", "width")]
        return tv.resized_crop(x, *box, size=[size, size], antialias=True)

    compare(RandomAreaCrop(area=(0.1, 1.0), aspect=(0.5, 2.0), p=p), size, reference)


@pytest.mark.parametrize("size", [64, 48])
def test_symmetry(size: int) -> None:
    def reference(x: Tensor, d: Params) -> Tensor:
        x = tv.horizontal_flip(x) if d["flip_h"] else x
        x = tv.vertical_flip(x) if d["flip_v"] else x
        x = tv.rotate(x, 90.0 * int(d["turns"]))
        return tv.resize(x, [size, size], antialias=True)

    compare(Symmetry(p=0.9), size, reference)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_colour(name: str, p: float) -> None:
    adjust = getattr(tv, f"adjust_{name}")
    op = Colour(p=p, **{name: 0.5})  # type: ignore[arg-type]
    compare(op, 64, lambda x, d: adjust(x, float(d[name])))


def test_colour_together() -> None:
    def reference(x: Tensor, d: Params) -> Tensor:
        for name in ("brightness", "contrast", "saturation", "hue"):
            x = getattr(tv, f"adjust_{name}")(x, float(d[name]))
        return x

    x = 0.35 + 0.3 * images() / 255  # so that no intermediate value leaves 0..1, where torchvision clamps
    ids = torch.arange(len(x))
    policy = Policy([Colour(0.2, 0.2, 0.2, 0.5)])
    params = policy.draw(3, ids, 3, 64, 64, 64)["Colour"]
    expected = torch.stack([reference(x[i], {k: v[i] for k, v in params.items()}) for i in range(len(x))])
    assert (policy(x, ids, 3, pre(x, 64, ZERO, ONE)) - expected).abs().max() < 1e-4


def test_hue_of_every_colour() -> None:
    steps = torch.linspace(0, 1, 16)
    x = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 64, 64)
    for turns in (-0.5, -0.2, 0.0, 1 / 6, 0.5):
        expected = tv.adjust_hue(x, turns)
        assert (hue_rotated(x, torch.tensor([turns])) - expected).abs().max() < 2e-6


def test_grayscale() -> None:
    compare(Grayscale(p=0.5), 64, lambda x, d: tv.rgb_to_grayscale(x, 3) if d["on"] else x)


@pytest.mark.parametrize("kernel", [3, 7, None])
def test_gaussian_blur(kernel: int | None) -> None:
    def reference(x: Tensor, d: Params) -> Tensor:
        return tv.gaussian_blur(x, [kernel or 7] * 2, [float(d["sigma"])] * 2) if d["on"] else x

    compare(Blur(kernel=kernel, kind="gaussian", p=0.5), 64, reference)


def test_mean_blur() -> None:
    def reference(x: Tensor, d: Params) -> Tensor:
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, 3, stride=1) if d["on"] else x

    compare(Blur(p=0.5), 64, reference)


@pytest.mark.parametrize("bands", [1, 2, 13])
def test_other_numbers_of_bands(bands: int) -> None:
    """The definitions, written out for one sample at a time in double precision."""
    x, ids = images(8, 32, bands) / 255, torch.arange(8)
    mean, std = (0.0,) * bands, (1.0,) * bands

    def views(op: Operation) -> tuple[Tensor, Params]:
        policy = Policy([op])
        params = next(iter(policy.draw(1, ids, bands, 32, 32, 32).values()))
        return policy(x, ids, 1, pre(x, 32, mean, std)).double(), params

    got, d = views(Colour(0.3, 0.3, 0.3, 0.2))
    for i, y in enumerate(x.double()):
        y = y * d["brightness"][i].double()
        centre = y.mean((1, 2), keepdim=True)
        y = centre + d["contrast"][i].double() * (y - centre)
        y = y.mean(0) + d["saturation"][i].double() * (y - y.mean(0))
        y = torch.stack([y[c] * float(d["gain"][i, c]) for c in range(bands)])
        torch.testing.assert_close(got[i], y.clamp(0, 1), atol=1e-5, rtol=0)
    if bands == 1:  # as torchvision leaves one band alone
        assert bool((d["gain"] == 1).all() and (d["saturation"] == 1).all())

    got, d = views(BandGain(0.3, 0.1))
    centre = x.double().mean((2, 3), keepdim=True)
    y = centre + d["gain"][:, :, None, None].double() * (x - centre) + d["offset"][:, :, None, None].double()
    torch.testing.assert_close(got, y.clamp(0, 1), atol=1e-5, rtol=0)
    assert d["offset"].abs().max() <= 0.1
    assert bands == 1 or len(set(d["gain"][0].tolist())) == bands

    got, d = views(Grayscale(p=0.5))
    for i, y in enumerate(x.double()):
        y = y.mean(0, keepdim=True).expand_as(y) if d["on"][i] else y
        torch.testing.assert_close(got[i], y, atol=1e-5, rtol=0)


def test_per_band_draws_each_band_alone() -> None:
    op, ids = Colour(0.4, 0.4, 0.4, 0.1, per_band=True), torch.arange(500)
    d = op.draw(0, ids, 13, 8, 8)
    assert len(set(d["brightness"][0].tolist())) == 13
    assert bool((d["saturation"] == 1).all() and (d["gain"] == 1).all())
    assert 0.6 <= d["contrast"].min() < 0.61 and 1.39 < d["contrast"].max() <= 1.4
    assert op.draw(0, ids, 3, 8, 8)["brightness"].shape == (500, 1)


def test_crop_draws_what_it_says() -> None:
    ids = torch.arange(20_000)
    d = RandomAreaCrop(area=(0.2, 0.6), aspect=(0.5, 2.0), p=0.7).draw(5, ids, 3, 110, 110)
    whole = (d["height"] == 110) & (d["width"] == 110)
    assert abs(float(whole.float().mean()) - 0.3) < 0.02
    h, w = d["height"][~whole].double(), d["width"][~whole].double()
    assert bool(((d["top"] >= 0) & (d["top"] + d["height"] <= 110)).all())
    assert bool(((d["left"] >= 0) & (d["left"] + d["width"] <= 110)).all())
    area, aspect = h * w / 110**2, w / h
    assert 0.19 < area.min() < 0.21 and 0.59 < area.max() < 0.61
    assert 0.48 < aspect.min() < 0.52 and 1.92 < aspect.max() < 2.08
    assert abs(float(aspect.log().mean())) < 0.02
    # all of the image is reached
    assert d["top"].min() == 0 and (d["top"] + d["height"]).max() == (d["left"] + d["width"]).max() == 110
    # a box that never fits becomes the largest central one: torchvision's fallback
    d = RandomAreaCrop(area=(1.0, 1.0), aspect=(1.0, 1.0)).draw(5, ids[:2], 3, 100, 300)
    assert [int(d[k][0]) for k in ("top", "left", "height", "width")] == [0, 100, 100, 100]


def test_symmetry_reaches_the_group_equally() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2).repeat(8000, 1, 1, 1) / 4
    y = Policy([Symmetry()])(x, torch.arange(8000), 0, pre(x, 2, (0.0,), (1.0,)))
    kinds, counts = y.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 8
    assert bool(((counts - 1000).abs() < 4.5 * math.sqrt(8000 * 7 / 64)).all())
    y = Policy([Symmetry(flips="horizontal", quarter_turns=False)])(x, torch.arange(8000), 0, pre(x, 2, (0.0,), (1.0,)))
    assert y.flatten(1).unique(dim=0).tolist() == [[0.0, 0.25, 0.5, 0.75], [0.25, 0.0, 0.75, 0.5]]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RandomAreaCrop(area=(0.5, 0.2)), r"area.*write, e\.g\., area: \[0\.2, 1\.0\]"),
        (lambda: RandomAreaCrop(area=0.5), "area"),  # type: ignore[arg-type]
        (lambda: Grayscale(p=1.5), r"Grayscale\(p=1.5\)"),
        (lambda: Colour(hue=0.7), r"hue=0.7\) is not a number from 0 to 0.5"),
        (lambda: Blur(kernel=4), "odd"),
        (lambda: Blur(kind="box"), "write kind: mean"),
        (lambda: Symmetry(flips="vertical"), "flips: horizontal"),
        (lambda: Policy([Grayscale(), RandomAreaCrop()]), "list Resize first"),
        (lambda: Policy({"crop": 3}), "_target_"),  # type: ignore[dict-item]
    ],
)
def test_bad_values_say_what_to_write(make: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()
