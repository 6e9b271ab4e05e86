"""Splits: stratified, nested, and dependent on nothing but paths, labels and seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsssl.data.split import labelled_subset, split
from rsssl.errors import UserError

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6)
seeds = st.integers(0, 2**31)


def listing(counts: list[int]) -> tuple[list[str], np.ndarray]:
    paths = [f"class{c}/image {i}.tif" for c, n in enumerate(counts) for i in range(n)]
    return paths, np.repeat(np.arange(len(counts)), counts)


@settings(max_examples=60, deadline=None)
@given(sizes, seeds, st.floats(0.01, 0.9))
def test_test_and_pool_part_the_images_class_by_class(counts: list[int], seed: int, fraction: float) -> None:
    paths, labels = listing(counts)
    parts = split(paths, labels, seed, fraction)
    assert not set(parts.test) & set(parts.pool)
    assert sorted([*parts.test, *parts.pool]) == list(range(len(paths)))
    for c, n in enumerate(counts):
        tested = int((labels[parts.test] == c).sum())
        if n == 1:
            assert tested == 0
        else:
            assert abs(tested - fraction * n) <= 1 and 1 <= tested < n


@settings(max_examples=60, deadline=None)
@given(sizes, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(counts: list[int], seed: int, random) -> None:
    paths, labels = listing(counts)
    order = list(range(len(paths)))
    random.shuffle(order)
    shuffled, relabelled = [paths[i] for i in order], labels[order]
    one, two = split(paths, labels, seed), split(shuffled, relabelled, seed)
    assert one.hash == two.hash
    assert {paths[i] for i in one.test} == {shuffled[i] for i in two.test}
    a = labelled_subset(labels, paths, one.pool, 0.5, seed)
    b = labelled_subset(relabelled, shuffled, two.pool, 0.5, seed)
    assert {paths[i] for i in a} == {shuffled[i] for i in b}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(26, 60), min_size=1, max_size=5), seeds, seeds)
def test_labelled_subsets_are_nested_and_exact(counts: list[int], split_seed: int, seed: int) -> None:
    paths, labels = listing(counts)
    parts = split(paths, labels, split_seed)
    previous: set[int] = set()
    for ts in (1, 5, 10, 20, "all"):
        chosen = labelled_subset(labels, paths, parts.pool, ts, seed)
        assert previous <= set(chosen.tolist()) <= set(parts.pool.tolist())
        if ts != "all":
            assert Counter(labels[chosen].tolist()) == {c: ts for c in range(len(counts))}
        previous = set(chosen.tolist())
    assert previous == set(parts.pool.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=5), seeds, st.floats(0.001, 1.0))
def test_a_fraction_is_of_each_class_and_never_none(counts: list[int], seed: int, fraction: float) -> None:
    paths, labels = listing(counts)
    pool = split(paths, labels, 0).pool
    chosen = labelled_subset(labels, paths, pool, fraction, seed)
    for c in range(len(counts)):
        members = int((labels[pool] == c).sum())
        taken = int((labels[chosen] == c).sum())
        assert taken >= 1 and abs(taken - max(1, fraction * members)) <= 0.5 + 1e-9


def test_adding_an_image_leaves_the_ranking_of_the_others() -> None:
    paths, labels = listing([40, 40])
    before = split(paths, labels, 3, 0.25)
    after = split([*paths, "class1/new.tif"], np.append(labels, 1), 3, 0.25)
    moved = {paths[i] for i in before.test} ^ {([*paths, "class1/new.tif"])[i] for i in after.test}
    assert len(moved) <= 2


def test_seeds_draw_differently_and_both_are_fixed() -> None:
    paths, labels = listing([100] * 4)
    a, b = split(paths, labels, 0), split(paths, labels, 1)
    assert a.hash != b.hash and split(paths, labels, 0).hash == a.hash
    drawn = [tuple(labelled_subset(labels, paths, a.pool, 5, seed)) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_split_of_today_is_the_split_of_tomorrow() -> None:
    paths, labels = listing([10, 10])
    parts = split(paths, labels, 0)
    # Written down once: a change of these numbers breaks every published comparison.
    assert parts.hash == "96c3ea6f00b23ae990946e40ae994c2a2ecefca586cebb1b618f6e37730c76f9"


def test_editions_of_a_dataset_share_their_test_scenes() -> None:
    """EuroSAT's JPEGs and its GeoTIFFs: pre-training on one must not see what is tested on the other."""
    paths, labels = listing([40, 30])
    stems = [p.rsplit(".", 1)[0] for p in paths]
    jpg, tif = ([f"{s}.{suffix}" for s in stems] for suffix in ("jpg", "tif"))
    assert split(jpg, labels, 0).test.tolist() == split(tif, labels, 0).test.tolist()
    both = jpg + tif  # of one name and two suffixes: an order all the same, whichever way round they are listed
    twice = np.concatenate([labels, labels])
    there = {both[i] for i in split(both, twice, 0).test}
    assert there == {both[::-1][i] for i in split(both[::-1], twice[::-1], 0).test}


def test_unlabelled_images_are_pool_and_lend_no_labels() -> None:
    paths = [f"{i}.tif" for i in range(9)]
    labels = np.array([-1, 0, 0, 0, -1, 1, 1, 1, -1])
    parts = split(paths, labels, 0, 0.3)
    assert {0, 4, 8} <= set(parts.pool.tolist())
    assert not {0, 4, 8} & set(labelled_subset(labels, paths, parts.pool, "all", 0).tolist())
    only = split(paths, np.full(9, -1), 0)
    assert len(only.test) == 0 and len(only.pool) == 9


def test_more_labels_than_there_are_names_the_class() -> None:
    paths, labels = listing([50, 12, 50])
    pool = split(paths, labels, 0).pool
    with pytest.raises(UserError, match=r"class1 has 10 in the pool.*ts=10"):
        labelled_subset(labels, paths, pool, 20, 0)


@pytest.mark.parametrize("ts", [0, -1, 1.5, 0.0, "some", True])
def test_other_train_scales_are_refused(ts: object) -> None:
    paths, labels = listing([10, 10])
    with pytest.raises(ValueError):
        labelled_subset(labels, paths, np.arange(20), ts, 0)  # type: ignore[arg-type]
