"""The order of data that is read in blocks: a permutation, any slice alone, as random as it can be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsssl.data.order import BlockOrder
from rsssl.rng import fold, permutation

KEYS = st.integers(0, 2**64 - 1)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def starts_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@given(key=KEYS, lengths=LENGTHS, group=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_it_is_a_permutation_group_by_group(key: int, lengths: list[int], group: int) -> None:
    starts = starts_of(lengths)
    order = BlockOrder(key, starts, group)
    ids = order[:]
    assert len(order) == sum(lengths) and np.array_equal(np.sort(ids), np.arange(sum(lengths)))
    block_of = np.repeat(np.arange(len(lengths)), lengths)
    chosen = np.concatenate([order.blocks(g) for g in range(order.n_groups)])
    assert sorted(chosen.tolist()) == list(range(len(lengths)))
    position = 0
    for g in range(order.n_groups):
        size = sum(lengths[b] for b in order.blocks(g))
        assert set(block_of[ids[position : position + size]]) == set(order.blocks(g).tolist())
        assert {order.group_at(p) for p in range(position, position + size)} == {g}
        position += size
    assert position == len(ids)


@given(data=st.data(), key=KEYS, lengths=LENGTHS, group=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_slice_is_that_of_the_whole(data: st.DataObject, key: int, lengths: list[int], group: int) -> None:
    starts, n = starts_of(lengths), sum(lengths)
    order = BlockOrder(key, starts, group)
    whole = order[:]
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    assert np.array_equal(np.concatenate([order[a:b] for a, b in pairwise([0, *cuts, n])]), whole)
    part = data.draw(st.slices(n))
    assert np.array_equal(order[part], whole[part])
    assert np.array_equal(BlockOrder(key, starts, group)[part], whole[part])  # what was asked before changes nothing


def test_it_is_frozen_and_what_it_says() -> None:
    """Worked out with lists: the blocks permuted, two of them a group, the tiles of each group permuted."""
    lengths, key = [3, 4, 2, 5, 1], fold("frozen")
    blocks = np.split(np.arange(15), starts_of(lengths)[1:-1])
    permuted = [blocks[b] for b in permutation(fold(key, "blocks"), 5)]
    expected: list[int] = []
    for g in range(3):
        tiles = np.concatenate(permuted[2 * g : 2 * g + 2])
        expected += tiles[permutation(fold(key, "group", g), len(tiles))].tolist()
    assert BlockOrder(key, starts_of(lengths), 2)[:].tolist() == expected
    assert expected == [3, 5, 6, 14, 4, 12, 0, 1, 13, 2, 9, 11, 10, 8, 7]


def test_few_blocks_are_one_random_permutation() -> None:
    """As many ids stay in place, and as many neighbours, as in any other random order."""
    n = 64 * 256
    ids = BlockOrder(5, np.arange(0, n + 1, 256), 64)[:]
    moved = (ids - np.arange(n)) % n
    assert stats.chisquare(np.bincount(moved * 32 // n, minlength=32)).pvalue > 1e-4
    for lag in (1, 2, 256, n // 2):
        assert stats.chisquare(np.bincount((ids[lag:] - ids[:-lag]) % n * 32 // n, minlength=32)).pvalue > 1e-4
        assert abs(np.corrcoef(ids[lag:], ids[:-lag])[0, 1]) < 4.5 / np.sqrt(n - lag)


def test_blocks_and_tiles_have_no_favourites() -> None:
    """Over many keys each block is equally often in each group, and each tile of a group equally often at its start."""
    blocks, group, size, keys = 24, 6, 4, 3000
    firsts, groups = np.zeros(blocks * size, int), np.zeros((blocks, blocks // group), int)
    for k in range(keys):
        order = BlockOrder(fold("favourites", k), np.arange(0, blocks * size + 1, size), group)
        firsts[order[:1]] += 1
        for g in range(order.n_groups):
            groups[order.blocks(g), g] += 1
    assert stats.chisquare(firsts).pvalue > 1e-4
    assert stats.chisquare(groups[:, 0]).pvalue > 1e-4 and (groups.sum(1) == keys).all()


@pytest.mark.parametrize("group", [16, 64])
def test_how_evenly_a_batch_takes_the_blocks(group: int) -> None:
    """Sorted data, of which each block is one class: what a batch has of it spreads as drawing blocks first, and tiles
    of them then, makes it: (1 / 256 + 1 / group) p (1 - p), without replacement, in place of p (1 - p) / 256."""
    n_blocks, size, batch = 4096, 64, 256
    half = np.arange(n_blocks * size) < n_blocks * size // 2  # of the class
    shares = []
    for k in range(8):
        ids = BlockOrder(fold("even", k), np.arange(0, n_blocks * size + 1, size), group)[:]
        shares.append(half[ids].reshape(-1, batch).mean(1))
    tiles = group * size
    expected = 0.25 * (1 / group * (n_blocks - group) / (n_blocks - 1)) + 0.25 / batch * (tiles - batch) / (
        tiles - 1
    ) * (1 - 1 / group)
    assert np.var(np.concatenate(shares)) == pytest.approx(expected, rel=0.1)


def test_epochs_have_other_groups() -> None:
    """A pair of blocks that shares a group in one epoch shares it in the next one as often as chance has it."""
    n_blocks, group = 512, 16
    starts, together = np.arange(0, n_blocks + 1), []
    number = np.empty((2, n_blocks), int)
    for k in range(40):
        for epoch in (0, 1):
            order = BlockOrder(fold("epochs", k, epoch), starts, group)
            for g in range(order.n_groups):
                number[epoch, order.blocks(g)] = g
        a, b = np.triu_indices(n_blocks, 1)
        same = number[0, a] == number[0, b]
        together.append((number[1, a[same]] == number[1, b[same]]).mean())
    chance = (group - 1) / (n_blocks - 1)
    assert np.mean(together) == pytest.approx(chance, rel=0.1)
