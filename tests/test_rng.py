"""The counter-based generator: frozen values, range, uniformity, independence of the batch, torch and numpy; orders."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from rsssl import rng
from rsssl.rng import Order, _uniform_anywhere, feistel, fold, hash64, hash64_numpy, permutation, uniform

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
    for draw in (uniform, _uniform_anywhere):
        assert draw(key, torch.tensor(ids), 3).tolist() == stream


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


@pytest.fixture
def enciphered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of any length are enciphered, as those of more than SORTED ids are."""
    monkeypatch.setattr(rng, "SORTED", -1)


@given(key=KEYS, n=st.one_of(st.integers(0, 70), st.integers(71, 50_000)))
@example(key=0, n=2**14)  # a whole domain, and one block
@example(key=0, n=2**14 + 1)  # nearly half of the domain outside
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_enciphered_order_is_a_permutation(enciphered: None, key: int, n: int) -> None:
    ids = Order(key, n)[:]
    assert ids.dtype == np.int64
    assert np.array_equal(np.sort(ids), np.arange(n))


@given(data=st.data(), key=KEYS, n=st.integers(1, 40_000), keep=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_slice_of_an_order_is_that_of_the_whole(data: st.DataObject, key: int, n: int, keep: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "SORTED", n if keep else -1)
        order = Order(key, n)
        whole = order[:]
        cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
        parts = [order[a:b] for a, b in pairwise([0, *cuts, n])]
        assert np.array_equal(np.concatenate(parts), whole)
        part = data.draw(st.slices(n))
        assert np.array_equal(order[part], whole[part])
        assert np.array_equal(Order(key, n)[part], whole[part])  # what was asked before changes nothing
        assert len(order) == n and len(order[n : n + 5]) == 0


@given(key=KEYS, n=st.integers(0, 2000))
@settings(max_examples=30, deadline=None)
def test_a_short_order_is_the_sorted_permutation(key: int, n: int) -> None:
    ids = Order(key, n)[:]
    assert np.array_equal(ids, permutation(key, n))
    ids[:] = -1  # the caller's own
    assert np.array_equal(Order(key, n)[:], permutation(key, n))


@given(key=KEYS, bits=st.integers(1, 12), rounds=st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_a_feistel_network_is_one_to_one(key: int, bits: int, rounds: int) -> None:
    keys = [np.uint64(fold(key, i)) for i in range(rounds)]
    out = feistel(np.arange(2**bits, dtype=np.uint64), bits, keys)
    assert np.array_equal(np.sort(out), np.arange(2**bits))


def plain_order(key: int, n: int, position: int) -> int:
    """The cipher in Python's own integers."""
    bits = (n - 1).bit_length()
    low = bits - bits // 2
    while True:
        a, b = position >> low, position % 2**low
        for i in range(8):
            round_key = fold(key, "round", i)
            if i % 2 == 0:
                a ^= mix((b * 0x9E3779B97F4A7C15 + round_key) % 2**64) % 2 ** (bits // 2)
            else:
                b ^= mix((a * 0x9E3779B97F4A7C15 + round_key) % 2**64) % 2**low
        position = a << low | b
        if position < n:
            return position


@pytest.mark.parametrize("n", [2**24 + 1, 10**9, 2**40 - 1, 2**62])
def test_a_long_order_is_enciphered_and_frozen(n: int) -> None:
    order = Order(7, n)
    for a in (0, n // 2, n - 6):
        assert order[a : a + 6].tolist() == [plain_order(7, n, i) for i in range(a, a + 6)]
    # resumed at a billion, in no time and memory
    assert Order(7, 10**9)[500_000_000:500_000_003].tolist() == [520687830, 67839044, 809529228]


def test_orders_of_different_keys_differ(enciphered: None) -> None:
    n, keys = 5000, 20
    orders = np.stack([Order(fold("keys", k), n)[:] for k in range(keys)])
    same = [(orders[a] == orders[b]).sum() for a in range(keys) for b in range(a)]
    assert max(same) < 12  # of two random permutations: 1 on average; 12 or more once in 10**9
    first = np.bincount(orders[:, :500].ravel(), minlength=n)
    assert first.max() < 15  # no id is always early: 2 on average, 15 or more once in 10**9


@pytest.mark.parametrize("n", [1 << 16, 50_021, 1 << 17 | 1])
def test_an_enciphered_order_is_as_random_as_a_shuffled_one(enciphered: None, n: int) -> None:
    """Fixed keys, so nothing here depends on luck; numpy's own permutation passes the same."""
    for ids in (Order(fold("random", n), n)[:], np.random.default_rng(n).permutation(n)):
        moved = (ids - np.arange(n)) % n
        assert stats.chisquare(np.bincount(moved * 32 // n, minlength=32)).pvalue > 1e-4
        for lag in (1, 2, 128, 256, n // 2):
            assert stats.chisquare(np.bincount((ids[lag:] - ids[:-lag]) % n * 32 // n, minlength=32)).pvalue > 1e-4
            assert abs(np.corrcoef(ids[lag:], ids[:-lag])[0, 1]) < 4.5 / np.sqrt(n - lag)
        blocks = ids[: n // 256 * 256].reshape(-1, 256)  # batches: their ids over 8 ranges
        counts = np.stack([(blocks * 8 // n == k).sum(1) for k in range(8)], 1)
        chi = ((counts - 32) ** 2 / 32).sum(1)  # 7 degrees of freedom, a standard deviation of 3.7
        assert abs(chi.mean() - 7) < 4.5 * 3.8 / np.sqrt(len(chi))
        cycles = n_cycles(ids)  # log(n) + 0.58 on average, with that variance
        assert 1 <= cycles < np.log(n) + 6 * np.sqrt(np.log(n))


def n_cycles(ids: np.ndarray) -> int:
    graph = csr_matrix((np.ones(len(ids), bool), (np.arange(len(ids)), ids)), shape=(len(ids), len(ids)))
    return int(connected_components(graph, directed=False)[0])


def test_an_order_says_what_it_takes() -> None:
    with pytest.raises(TypeError, match="slices"):
        Order(0, 10)[3]  # type: ignore[index]
    with pytest.raises(ValueError, match="negative"):
        Order(0, -1)
