"""Which images lend their labels: as many as asked for, the same ones on every machine, or a refusal by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rsssl
from rsssl.data.catalog import Catalog
from rsssl.data.pack import Pack
from rsssl.data.prepared import load, need_labels
from rsssl.data.scan import scan
from rsssl.data.split import labelled_subset, split
from rsssl.engine.store import Store
from rsssl.errors import UserError


def test_more_labels_than_a_class_has(packed: Callable[..., Pack], root: Path) -> None:
    (root / "field" / "0.jpg").unlink()
    whole = packed(root)
    pool = split(whole.paths, whole.labels, 0).pool
    with pytest.raises(UserError, match=r"class field has 4 in the pool.*Type at most ts=4"):
        labelled_subset(whole.labels, whole.paths, pool, 5, 0)
    assert len(labelled_subset(whole.labels, whole.paths, pool, 4, 0)) == 8  # what it says to type


@pytest.mark.parametrize(("fraction", "protocol"), [(0.2, "clean"), (0.4, "validation"), (0.0, "clean")])
def test_it_is_told_before_any_image_is_read_and_just_as_after(
    root: Path, tmp_path: Path, fraction: float, protocol: str
) -> None:
    (root / "field" / "0.jpg").unlink()
    dataset = rsssl.dataset("folder", root=str(root), test_fraction=fraction)
    data = load(dataset, Store(tmp_path / "packed"), 1, protocol)
    counts = np.bincount(data.pack.labels[np.asarray(data.split.pool)])
    told = []
    for ts in range(1, 1 + counts.max()):
        with contextlib.suppress(UserError):
            labelled_subset(data.pack.labels, data.pack.paths, data.split.pool, ts, 0, data.pack.card.classes)
            load(dataset, Store(tmp_path / "packed"), 1, protocol, ts=ts)
            told.append(ts)
    most = int(counts.min())
    assert told == list(range(1, most + 1))
    for find in (
        lambda: labelled_subset(data.pack.labels, data.pack.paths, data.split.pool, most + 1, 0, ("field", "water")),
        lambda: load(dataset, Store(tmp_path / "other"), 1, protocol, ts=most + 1),
    ):
        with pytest.raises(UserError) as error:
            find()
        told.append(str(error.value))
    assert told[-1] == told[-2] and not (tmp_path / "other").exists()


def chosen(catalog: Catalog, ts: int, seed: int) -> list[str]:
    pool = split(catalog.paths, catalog.labels, 0).pool
    return [catalog.paths[i] for i in labelled_subset(catalog.labels, catalog.paths, pool, ts, seed)]


def test_one_seed_draws_nested_subsets_in_whatever_order_the_system_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    """Real folders of one content, filled in other orders, read through a listing that is shuffled once more."""
    names = [f"{c}/{kind} {i}.tif" for c in ("b", "A", "ä") for i in range(66) for kind in ("x", "X")]
    for root in ("one", "two"):
        for name in random.permutation(names):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).touch()
    one = scan(tmp_path / "one")
    real = os.scandir

    def shuffled(folder: str | Path) -> list[os.DirEntry[str]]:
        entries = sorted(real(str(folder)), key=lambda e: e.name)
        return [entries[i] for i in random.permutation(len(entries))]

    monkeypatch.setattr(os, "scandir", shuffled)
    two = scan(tmp_path / "two")
    assert list(one.paths) == list(two.paths) and one.classes == two.classes == ("A", "b", "ä")
    for seed in (0, 1):
        draws = [chosen(one, ts, seed) for ts in (5, 20, 50)]
        assert draws == [chosen(two, ts, seed) for ts in (5, 20, 50)]
        assert set(draws[0]) < set(draws[1]) < set(draws[2])
        assert all(
            sum(p.startswith(f"{c}/") for p in d) == n for d, n in zip(draws, (5, 20, 50), strict=True) for c in "bAä"
        )
    assert chosen(one, 5, 0) != chosen(one, 5, 1)


def test_a_single_class_is_told_by_its_name(root: Path, tmp_path: Path) -> None:
    for file in (root / "field").iterdir():
        file.unlink()
    (root / "field").rmdir()
    data = load(rsssl.dataset("folder", root=str(root)), Store(tmp_path / "store"), 1, "clean")
    with pytest.raises(UserError, match=r"only one class \(water\)"):
        need_labels(data)
