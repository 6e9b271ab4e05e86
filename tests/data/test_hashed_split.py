"""Rows that are not listed, and divisions of large datasets, against lists of rows and loops over names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsssl
from rsssl import rng
from rsssl.data import hashed_split as module
from rsssl.data.hashed_split import hashed_split
from rsssl.data.pack import Pack
from rsssl.data.packs import join, open_packed
from rsssl.data.pool import Pool, Source
from rsssl.data.prepared import divide, load, statistics
from rsssl.data.rows import Marked, Rows, Run, bitmap
from rsssl.data.split import labelled_subset, split
from rsssl.engine.store import Store
from rsssl.errors import UserError

SIZES = (700, 9, 300)


def rows_of(kind: str, n: int) -> tuple[Rows, np.ndarray]:
    """Rows of a pack of n, and the same as a list."""
    if kind == "run":
        return Run(3, n - 2), np.arange(3, n - 2)
    mask = np.random.default_rng(n).random(n) < {"few": 0.02, "many": 0.9, "none": 0, "all": 2}[kind.split()[-1]]
    bits = bitmap(iter(np.array_split(mask, 7)))
    marked = not kind.startswith("not")
    return Marked(bits, n, marked), np.flatnonzero(mask == marked)


@pytest.mark.parametrize("n", [1024, 1999, 5000])
@pytest.mark.parametrize("kind", ["run", "few", "many", "none", "all", "not few", "not many", "not none", "not all"])
def test_rows_are_those_of_the_list(kind: str, n: int) -> None:
    rows, listed = rows_of(kind, n)
    assert len(rows) == len(listed) and np.array_equal(np.asarray(rows), listed)
    assert [*rows] == listed.tolist() and np.array_equal(np.concatenate([listed[:0], *rows.blocks()]), listed)
    for start, stop in ((0, n), (511, 513), (n - 1, n), (100, 100)):
        assert np.array_equal(
            start + np.flatnonzero(rows.within(start, stop)), listed[(listed >= start) & (listed < stop)]
        )
    values = np.random.default_rng(0).random(n)
    assert np.array_equal(values[rows], values[listed])
    for part in (slice(2, 9), slice(None, None, 3), slice(-4, None), slice(5, 1)):
        assert np.array_equal(rows[part], listed[part])
    if len(listed):
        some = np.random.default_rng(1).integers(-len(listed), len(listed), (50, 3))
        assert np.array_equal(rows[some], listed[some]) and rows[-1] == listed[-1]
        mask = np.random.default_rng(2).random(len(listed)) < 0.5
        assert np.array_equal(rows[mask], listed[mask])
    with pytest.raises(IndexError):
        rows[np.array([len(listed)])]


@pytest.fixture
def whole(written: Callable[..., Pack], tmp_path: Path) -> Pack:
    """Three packs as one dataset, two of them with labels of most images."""
    first = 0
    for k, n in enumerate(SIZES):
        labels = np.where(np.arange(n) % 10 < 7, np.arange(n) % 3, -1) if k != 1 else np.full(n, -1)
        names = [f"{'abc'[i % 3]}/{first + i}.v{i % 5}.tif" for i in range(n)]
        written(tmp_path / "whole" / f"part-{k:05d}", names, labels, ("a", "b", "c"))
        first += n
    return join(tmp_path / "whole", "s", "r")


def hashes(pack: Pack, key: int) -> list[int]:
    """Of each name without its suffix, one after the other."""
    found = []
    for name in pack.paths:
        stem = os.path.splitext(os.fsencode(name))[0]
        found.append(
            rng.hash64_numpy(key, np.array([int.from_bytes(hashlib.sha256(stem).digest()[:8], "little", signed=True)]))[
                0
            ]
        )
    return [int(h) for h in found]


@pytest.mark.parametrize("at_once", [64, 1 << 16])
def test_a_hashed_test_set_is_that_of_a_loop_over_the_names(
    whole: Pack, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    drawn = hashed_split(whole, 5, 0.2)
    expected = [
        row
        for row, (label, h) in enumerate(zip(whole.labels.tolist(), hashes(whole, rng.fold("split", 5)), strict=True))
        if label >= 0 and h < 0.2 * 2**64
    ]
    assert np.asarray(drawn.test).tolist() == expected and 100 < len(expected) < 180
    assert np.array_equal(np.asarray(drawn.pool), np.setdiff1d(np.arange(1009), expected))
    again = hashed_split(open_packed(whole.folder), 5, 0.2)
    assert again.hash == drawn.hash and np.array_equal(np.asarray(again.test), np.asarray(drawn.test))
    others = [
        hashed_split(whole, 6, 0.2).hash,
        hashed_split(whole, 5, 0.3).hash,
        hashed_split(whole, 5, 0.2, True).hash,
    ]
    assert len({drawn.hash, *others}) == 4


def test_the_pool_is_divided_once_more_for_a_validation(whole: Pack) -> None:
    outer, inner = hashed_split(whole, 0, 0.25), hashed_split(whole, 0, 0.25, validation=True)
    tested, validated, left = (set(np.asarray(rows).tolist()) for rows in (outer.test, inner.test, inner.pool))
    assert not validated & tested and not left & tested and not left & validated
    assert tested | validated | left == set(range(1009))
    known = int((whole.labels >= 0).sum())
    assert abs(len(validated) / known - 0.25 * 0.75) < 0.05


def test_sums_of_the_parts_are_those_of_their_images(whole: Pack) -> None:
    drawn = hashed_split(whole, 1, 0.3)
    for rows in (drawn.test, drawn.pool):
        assert isinstance(rows, Rows) and rows.sums is not None
        assert np.allclose(rows.sums, whole.moments[rows].sum(0), rtol=1e-12)
    count, total, squares = whole.moments[np.asarray(drawn.pool)].sum(0).T
    variance = squares / count - (total / count) ** 2
    mean, std = statistics((whole, drawn.pool))
    expected = np.where(variance > 1e-14, np.sqrt(np.maximum(variance, 0)), 1)  # these made-up sums may be impossible
    assert np.allclose(mean, total / count) and np.allclose(std, expected)


def test_statistics_pack_by_pack_are_those_of_all_moments_at_once_to_the_last_bit(
    whole: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsssl.data.prepared.AT_ONCE", 7)
    rows = [np.arange(0, len(part), 2) for part in whole.parts]
    count, total, _ = np.concatenate([p.moments[r] for p, r in zip(whole.parts, rows, strict=True)]).sum(0).T
    mean, _ = statistics(*zip(whole.parts, rows, strict=True))
    assert mean == tuple((total / np.maximum(count, 1)).tolist())


def test_unlabelled_images_are_a_run_and_nothing_is_written(written: Callable[..., Pack], tmp_path: Path) -> None:
    pack = written(tmp_path / "pack", [f"{i}.tif" for i in range(50)], np.full(50, -1))
    before = sorted(pack.folder.iterdir())
    drawn = hashed_split(pack, 0, 0.2)
    assert (
        len(drawn.test) == 0 and isinstance(drawn.pool, Run) and np.array_equal(np.asarray(drawn.pool), np.arange(50))
    )
    assert drawn.pool.sums is pack.sums and sorted(pack.folder.iterdir()) == before


@pytest.mark.parametrize("damage", ["bits", "record", "half"])
def test_a_damaged_bitmap_is_made_again(whole: Pack, damage: str) -> None:
    drawn = hashed_split(whole, 0, 0.2)
    expected = np.asarray(drawn.test)
    (bits,), (record,) = whole.folder.glob("split-*.bits"), whole.folder.glob("split-*.json")
    if damage == "bits":
        bits.write_bytes(bits.read_bytes()[:5] + b"\xff\x00" + bits.read_bytes()[7:])
    elif damage == "record":
        record.write_text(record.read_text().replace("0.2", "0.3"))
    else:
        bits.write_bytes(bits.read_bytes()[:64])
    again = hashed_split(whole, 0, 0.2)
    assert np.array_equal(np.asarray(again.test), expected)


def test_a_folder_for_reading_only_is_divided_in_memory(whole: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise UserError("cannot be written")

    expected = np.asarray(hashed_split(whole, 0, 0.2).test)
    for file in whole.folder.glob("split-*"):
        file.unlink()
    monkeypatch.setattr(module, "write_atomic", refused)
    assert np.array_equal(np.asarray(hashed_split(whole, 0, 0.2).test), expected)
    assert not [*whole.folder.glob("split-*.json")]


@pytest.mark.parametrize("ts", [1, 20, "all"])
def test_few_labels_of_many_images_are_those_of_the_listed_pool(
    whole: Pack, ts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsssl.data.split.LISTED", 100)
    pool = hashed_split(whole, 0, 0.2).pool
    found = labelled_subset(whole.labels, whole.paths, pool, ts, 3, whole.card.classes)
    assert np.array_equal(
        found, labelled_subset(whole.labels, whole.paths, np.asarray(pool), ts, 3, whole.card.classes)
    )


def test_a_fraction_of_many_labels_is_nested(whole: Pack) -> None:
    pool = hashed_split(whole, 0, 0.2).pool
    few, more = (labelled_subset(whole.labels, whole.paths, pool, ts, 3) for ts in (0.1, 0.4))
    known = int((whole.labels[pool] >= 0).sum())
    assert set(few.tolist()) < set(more.tolist()) and abs(len(more) / known - 0.4) < 0.08
    assert (whole.labels[more] >= 0).all() and set(more.tolist()) <= set(np.asarray(pool).tolist())


def test_too_few_labels_of_many_images_are_said(whole: Pack) -> None:
    pool = hashed_split(whole, 0, 0.2).pool
    with pytest.raises(UserError, match=r"ts=500 asks for 500 .* class a has .* Type at most ts=\d+"):
        labelled_subset(whole.labels, whole.paths, pool, 500, 3, whole.card.classes)


def test_a_pool_of_a_range_is_that_of_its_rows(whole: Pack) -> None:
    listed = Pool([Source(whole, np.arange(10, 800)), Source(whole, np.arange(3))])
    ranges = Pool([Source(whole, range(10, 800)), Source(whole, range(3))])
    marked = hashed_split(whole, 0, 0.2).pool
    for one, other in ((listed, ranges), (Pool([Source(whole, np.asarray(marked))]), Pool([Source(whole, marked)]))):
        ids = np.random.default_rng(0).integers(0, len(one), 60)
        assert len(one) == len(other)
        for (at, _, x), (place, _, y) in zip(one.gather(ids), other.gather(ids), strict=True):
            assert np.array_equal(at, place) and np.array_equal(x.numpy(), y.numpy())


def test_small_datasets_are_divided_as_ever_and_large_ones_by_their_hashes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = rsssl.dataset("folder", str(root))
    small = load(dataset, Store(tmp_path / "store"), 1)
    expected = split(list(small.pack.paths), small.pack.labels, 0)
    assert small.split.hash == expected.hash and np.array_equal(small.split.test, expected.test)
    monkeypatch.setattr("rsssl.data.prepared.RANKED", 11)
    large = load(dataset, Store(tmp_path / "store"), 1)
    assert isinstance(large.split.pool, Rows) and large.split.hash == hashed_split(large.pack, 0, 0.2).hash
    assert np.allclose(large.mean, statistics((large.pack, np.asarray(large.split.pool)))[0])
    assert isinstance(divide(replace(dataset, split_seed=1), large.pack, None, None, True).pool, Rows)
