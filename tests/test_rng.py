"""The counter-based generator: frozen values, range, uniformity, independence of the batch, torch against numpy."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsssl.rng import fold, hash64, hash64_numpy, permutation, uniform

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.integers(0, 2**64 - 1)


def mix(z: int) -> int:
    """SplitMix64's finaliser in Python's own unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_values_are_frozen() -> None:
    key = fold(0, 1, "crop")
    assert key == 3544068997198094602
    assert fold() == 1449310910991872227
    ids = torch.tensor([0, 1, 2, -1, 2**62])
    expected = [13001412611093588940 - 2**64, 16766798982424578908 - 2**64, 17794052060096405093 - 2**64]
    assert hash64(key, ids)[1:4].tolist() == expected
    # in units of 2**-24, so that the comparison is exact
    assert (uniform(key, ids[:2], 3).double() * 2**24).long().tolist() == [
        [9402328, 2318270, 14457680],
        [5198562, 8718717, 10544959],
    ]
    assert permutation(key, 10).tolist() == [5, 0, 9, 4, 3, 8, 1, 6, 7, 2]


@given(KEYS, st.lists(INT64, min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_torch_numpy_and_plain_integers_agree(key: int, ids: list[int]) -> None:
    golden = 0x9E3779B97F4A7C15
    plain = [mix(mix((i * golden + key) % 2**64) ^ key) for i in ids]
    assert hash64_numpy(key, np.array(ids, dtype=np.int64)).tolist() == plain
    assert [v % 2**64 for v in hash64(key, torch.tensor(ids)).tolist()] == plain
    stream = [[(mix((h + (j + 1) * golden) % 2**64) >> 40) / 2**24 for j in range(3)] for h in plain]
    assert uniform(key, torch.tensor(ids), 3).tolist() == stream


@given(KEYS, st.lists(INT64, min_size=2, max_size=20), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_row_depends_on_its_id_only(key: int, ids: list[int], random: Random) -> None:
    u = uniform(key, torch.tensor(ids), 5)
    assert u.dtype == torch.float32
    assert bool(((u >= 0) & (u < 1)).all())
    order = list(range(len(ids)))
    random.shuffle(order)
    assert torch.equal(uniform(key, torch.tensor(ids)[order], 5), u[order])
    assert torch.equal(uniform(key, torch.tensor(ids[:1]), 2), u[:1, :2])


@pytest.mark.parametrize("stride", [1, 1000, 2**40])
def test_uniform_and_uncorrelated(stride: int) -> None:
    u = uniform(fold("test", 3), torch.arange(20_000) * stride, 4).double().numpy()
    for column in u.T:
        counts = np.histogram(column, bins=64, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-4
    # neighbours in id and in column, and the same id under another key: |r| < 4.5 / sqrt(n)
    other = uniform(fold("test", 4), torch.arange(20_000) * stride, 1).double().numpy()[:, 0]
    pairs = [(u[:-1, 0], u[1:, 0]), (u[:, 0], u[:, 1]), (u[:, 0], other)]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.032


def test_fold_tells_its_parts_apart() -> None:
    parts: list[tuple[int | str, ...]] = [
        (),
        (0,),
        (1,),
        ("1",),
        (12, 3),
        (1, 23),
        ("a", "b"),
        ("ab",),
        ("b", "a"),
        (-1,),
        (2**64,),
    ]
    assert len({fold(*p) for p in parts}) == len(parts)
    assert fold(np.int64(7), "x") == fold(7, "x")
    with pytest.raises(TypeError):
        fold(0.5)  # type: ignore[arg-type]


@given(KEYS, st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_permutation_is_one(key: int, n: int) -> None:
    p = permutation(key, n)
    assert p.dtype == np.int64
    assert sorted(p.tolist()) == list(range(n))


def test_permutations_have_no_favourites() -> None:
    first = np.array([permutation(fold(k), 10)[0] for k in range(5000)])
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-4
