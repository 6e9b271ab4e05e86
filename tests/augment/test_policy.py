"""The fused execution equals the plain sequence, whatever the batch, the sizes and the number of bands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsssl.augment import BandGain, Blur, Colour, Grayscale, PixelOperation, Policy, RandomAreaCrop, Resize, Symmetry
from rsssl.augment import policy as policy_module
from rsssl.augment.ops import Params
from rsssl.rng import uniform
from tests.augment.cards import pre


def everything(resize: bool = False) -> Policy:
    ops = [
        RandomAreaCrop(area=(0.3, 1.0), p=0.8),
        Symmetry(p=0.7),
        Colour(0.4, 0.4, 0.4, 0.1, p=0.8),
        Symmetry(p=0.5),
        Grayscale(p=0.3),
        BandGain(0.2, 0.1, p=0.5),
        Blur(p=0.5),
        Colour(contrast=0.5, saturation=0.5, p=0.5),
        Blur(kernel=5, kind="gaussian", p=0.5),
    ]
    return Policy([Resize(10), *ops] if resize else ops)


def noise(b: int, bands: int, height: int, width: int) -> Tensor:
    return torch.rand(b, bands, height, width, generator=torch.Generator().manual_seed(1))


def bands_of(n: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(0.2, 0.6, n), torch.linspace(0.5, 1.0, n)


@pytest.mark.parametrize("bands", [1, 3, 13])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 64), (64, 64, 32), (40, 56, 48), (96, 80, 100), (150, 150, 64)]
)
@pytest.mark.parametrize("resize", [False, True])
def test_fused_equals_plain(bands: int, height: int, width: int, size: int, resize: bool) -> None:
    x, ids = noise(10, bands, height, width), torch.arange(10)
    mean, std = bands_of(bands)
    policy = everything(resize)
    keep = x.clone()
    fused = policy(x, ids, 11, pre(x, size, mean, std))
    torch.testing.assert_close(fused, policy.plain(x, ids, 11, pre(x, size, mean, std)), atol=5e-5, rtol=0)
    assert torch.equal(x, keep)


@pytest.mark.parametrize("size", [32, 64, 120])
def test_bytes_equal_floats(size: int) -> None:
    x = (noise(6, 3, 64, 64) * 255).round().to(torch.uint8)
    policy, ids, (mean, std) = everything(), torch.arange(6), bands_of(3)
    torch.testing.assert_close(
        policy(x, ids, 5, pre(x, size, mean, std)),
        policy(x / 255, ids, 5, pre(x / 255, size, mean, std)),
        atol=2e-5,
        rtol=0,
    )


@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=12, unique=True),
    st.sampled_from([(1, 32, 32), (3, 32, 24), (13, 32, 32), (3, 32, 100)]),
    st.integers(0, 2**64 - 1),
)
@example([0, 60183], (13, 32, 32), 3002)  # one is blurred and one is not
@settings(max_examples=15, deadline=None)
def test_a_sample_does_not_see_its_batch(ids: list[int], shape: tuple[int, int, int], key: int) -> None:
    bands, side, size = shape
    policy, (mean, std) = everything(), bands_of(bands)
    x = torch.stack([torch.rand(bands, side, side, generator=torch.Generator().manual_seed(i)) for i in ids])
    whole = policy(x, torch.tensor(ids), key, pre(x, size, mean, std))
    backwards = policy(x.flip(0), torch.tensor(ids).flip(0), key, pre(x.flip(0), size, mean, std)).flip(0)
    alone = torch.cat(
        [
            policy(x[i : i + 1], torch.tensor(ids[i : i + 1]), key, pre(x[i : i + 1], size, mean, std))
            for i in range(len(x))
        ]
    )
    torch.testing.assert_close(backwards, whole, atol=2e-6, rtol=0)
    torch.testing.assert_close(alone, whole, atol=2e-6, rtol=0)


@given(st.sampled_from([1, 3, 13]), st.integers(3, 70), st.integers(3, 70), st.integers(8, 40), st.booleans())
@settings(max_examples=25, deadline=None)
def test_finite_and_in_range(bands: int, height: int, width: int, size: int, resize: bool) -> None:
    x = noise(4, bands, height, width)
    y = everything(resize)(x, torch.arange(4), 0, pre(x, size, (0.0,) * bands, (1.0,) * bands))
    assert y.shape == (4, bands, size, size) and y.dtype == torch.float32
    assert bool(y.isfinite().all())
    assert float(y.min()) >= 0.0 and float(y.max()) <= 1.0


def test_parts_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """More samples than are worked on at a time."""
    monkeypatch.setattr(policy_module, "PART", 4 << 20)
    policy, (mean, std) = everything(), bands_of(3)
    x, ids = noise(100, 3, 64, 64), torch.arange(100)
    whole = policy(x, ids, 2, pre(x, 64, mean, std))
    for i in (0, 41, 42, 43, 99):
        alone = policy(x[i : i + 1], ids[i : i + 1], 2, pre(x[i : i + 1], 64, mean, std))[0]
        torch.testing.assert_close(alone, whole[i], atol=2e-6, rtol=0)
    assert policy(x[:0], ids[:0], 2, pre(x[:0], 64, mean, std)).shape == (0, 3, 64, 64)


def test_views_made_together_are_those_made_alone() -> None:
    policy, (mean, std) = everything(), bands_of(3)
    x, ids = noise(30, 3, 40, 40), torch.arange(30)
    together = policy.views(x, ids, [5, 6, 7], pre(x, 64, mean, std))
    for view, key in zip(together, (5, 6, 7), strict=True):
        torch.testing.assert_close(view, policy(x, ids, key, pre(x, 64, mean, std)), atol=2e-6, rtol=0)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("threads", [1, 2, 3, 50])
def test_threads_do_not_show(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, (mean, std) = everything(), bands_of(3)
    x, ids = noise(7, 3, 32, 32), torch.arange(7)
    expected = policy(x, ids, 3, pre(x, 32, mean, std))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(policy(x, ids, 3, pre(x, 32, mean, std)), expected)


def test_an_operation_does_not_change_the_draws_of_others() -> None:
    ids, gray = torch.arange(50), Grayscale(p=0.5)
    alone = Policy({"gray": gray}).draw(9, ids, 3, 64, 64, 64)["gray"]["on"]
    among = Policy({"flip": Symmetry(), "gray": gray, "blur": Blur()}).draw(9, ids, 3, 64, 64, 64)["gray"]["on"]
    assert torch.equal(alone, among)
    twice = Policy([gray, gray]).draw(9, ids, 3, 64, 64, 64)
    assert not torch.equal(*[d["on"] for d in twice.values()])
    assert not torch.equal(Policy({"gray": gray}).draw(10, ids, 3, 64, 64, 64)["gray"]["on"], alone)


def test_autocast_does_not_touch_it() -> None:
    x, ids, (mean, std) = noise(4, 3, 64, 64), torch.arange(4), bands_of(3)
    expected = everything()(x, ids, 2, pre(x, 48, mean, std))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(everything()(x, ids, 2, pre(x, 48, mean, std)), expected)


class Invert(PixelOperation):
    """A user's own operation, of a few lines."""

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        return {"on": uniform(key, ids, 1)[:, 0] < self.p}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        return torch.where(params["on"][:, None, None, None], 1 - x, x)


def test_a_users_own_operation() -> None:
    policy = Policy([RandomAreaCrop(), Colour(contrast=0.3), Invert(p=0.5), Grayscale(p=0.5)])
    x = (noise(8, 3, 32, 32) * 255).round().to(torch.uint8)
    ids, (mean, std) = torch.arange(8), bands_of(3)
    assert 0 < int(policy.draw(1, ids, 3, 32, 32, 32)["Invert"]["on"].sum()) < 8
    torch.testing.assert_close(
        policy(x, ids, 1, pre(x, 32, mean, std)),
        policy.plain(x / 255, ids, 1, pre(x / 255, 32, mean, std)),
        atol=1e-5,
        rtol=0,
    )
