"""The same images are packed once, whatever the dataset is called and whatever is done with unusable ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

import rsssl
from rsssl.data.dataset import Dataset
from rsssl.data.pack import PACK_VERSION
from rsssl.data.packing import pack
from rsssl.data.prepared import load
from rsssl.engine.store import Store
from rsssl.errors import UserError


def called(name: str, root: Path, **fields: object) -> Dataset:
    dataset = rsssl.dataset("folder", root=str(root), **fields)  # type: ignore[arg-type]
    dataset.name = name
    return dataset


def test_two_names_share_a_pack_and_each_has_its_own_name(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = (load(called(name, root), store, 1) for name in ("harbours", "ports"))
    third = load(called("docks", root, on_error="skip", split_seed=3), Store(tmp_path / "store"), 1)
    assert first.pack.folder == second.pack.folder == third.pack.folder
    assert [d.pack.card.name for d in (first, second, third)] == ["harbours", "ports", "docks"]
    assert first.pack.fingerprint == third.pack.fingerprint and first.split.hash != third.split.hash
    assert len(list((tmp_path / "store" / "pack").glob("[!.]*"))) == 1
    other = load(called("harbours", root, size=16), store, 1)
    assert other.pack.folder != first.pack.folder, "what shapes the pixels is another pack"


def test_images_that_were_left_out_are_an_error_where_they_may_not_be(root: Path, tmp_path: Path) -> None:
    (root / "field" / "bad.jpg").write_bytes(b"no image")
    store = Store(tmp_path / "store")
    assert load(called("harbours", root, on_error="skip"), store, 1).pack.n_skipped == 1
    with pytest.raises(UserError, match=r"field/bad\.jpg cannot be used: .*dataset\.on_error=skip"):
        load(called("harbours", root), store, 1)


def test_a_pack_under_the_key_of_an_earlier_version_is_used(root: Path, tmp_path: Path) -> None:
    store, dataset = Store(tmp_path / "store"), called("harbours", root)
    left_out = ["split_seed", "test_fraction", "block", "colours", "url", "md5", "homepage", "download", "generate"]
    left_out += ["list"]  # which it did not know
    settings = {k: v for k, v in asdict(dataset).items() if k not in left_out}
    inputs = {"settings": settings, "listing": dataset.catalog().listing(), "version": PACK_VERSION}
    folder = store.get("pack", inputs, lambda folder: pack(dataset, folder, 1)).folder
    assert load(dataset, Store(tmp_path / "store"), 1).pack.folder == folder
    assert load(called("ports", root), Store(tmp_path / "store"), 1).pack.folder != folder
