"""Large trees of files that are packed: listed again only when a folder has changed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data.catalog import Source
from rsssl.data.dataset import Dataset
from rsssl.data.prepared import Data, load
from rsssl.engine.store import Store
from rsssl.errors import UserError


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Every listing of a dataset that is made; those of more than 11 images are large."""
    made, source = list[Source](), Dataset.source

    def counted(self: Dataset) -> Source:
        made.append(source(self))
        return made[-1]

    monkeypatch.setattr(Dataset, "source", counted)
    monkeypatch.setattr("rsssl.data.known_tree.LARGE", 11)
    return made


def loaded(root: Path, **fields: Any) -> Data:
    """In a new process, as it were: nothing is open."""
    return load(rsssl.dataset("folder", str(root), **fields), Store(root.parent / "store"), 1)


def settle(root: Path) -> None:
    """Makes all folders old: what has changed since a listing began is not trusted."""
    for folder, *_ in os.walk(root):
        os.utime(folder, ns=(time.time_ns() - 10**10,) * 2)


def test_a_large_tree_is_listed_once(root: Path, listings: list[Source]) -> None:
    settle(root)
    first = loaded(root)
    again = loaded(root)
    assert len(listings) == 1 and again.pack.folder == first.pack.folder and again.split.hash == first.split.hash
    assert np.array_equal(again.split.test, first.split.test) and again.mean == first.mean
    loaded(root, size=16)
    assert len(listings) == 2, "another pack is asked for"


def test_a_small_tree_is_listed_each_time(root: Path, listings: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsssl.data.known_tree.LARGE", 12)
    settle(root)
    loaded(root)
    loaded(root)
    assert len(listings) == 2 and not [*(root.parent / "store" / "pack").glob(".*.tree.json")]


@pytest.mark.parametrize(
    "change", ["added", "removed", "renamed", "replaced", "a folder", "lost", "unpacked", "record"]
)
def test_a_large_tree_that_changed_is_listed_again(root: Path, listings: list[Source], change: str) -> None:
    settle(root)
    first = loaded(root)
    victim = root / "field" / "3.jpg"
    if change == "added":
        shutil.copy(victim, root / "field" / "new.jpg")
    elif change == "removed":
        victim.unlink()
    elif change == "renamed":
        victim.rename(root / "field" / "33.jpg")
    elif change == "replaced":
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / "field" / "part.jpg")
        (root / "field" / "part.jpg").replace(victim)
    elif change == "a folder":
        (root / "sea").mkdir()
        shutil.copy(victim, root / "sea" / "1.jpg")
    elif change == "lost":
        shutil.rmtree(first.pack.folder)
    elif change == "unpacked":
        (first.pack.folder / "done.json").unlink()
    else:
        (record,) = (root.parent / "store" / "pack").glob(".*.tree.json")
        record.write_text(record.read_text().replace("field", "fiele"))
    again = loaded(root)
    assert len(listings) == 2
    expected = {str(p.relative_to(root)) for p in root.rglob("*.jpg")}
    assert set(again.pack.paths) == expected
    assert (again.pack.fingerprint == first.pack.fingerprint) == (change in ("lost", "unpacked", "record"))


def test_what_changed_while_it_was_listed_is_not_remembered(root: Path, listings: list[Source]) -> None:
    for folder, *_ in os.walk(root):
        os.utime(folder, ns=(time.time_ns() + 10**10,) * 2)
    loaded(root)
    loaded(root)
    assert len(listings) == 2


def test_a_damaged_pack_of_images_written_over_in_place_is_not_made_under_its_old_name(
    root: Path, listings: list[Source]
) -> None:
    settle(root)
    first = loaded(root)
    victim = root / "field" / "3.jpg"
    victim.write_bytes((root / "water" / "3.jpg").read_bytes())
    assert loaded(root).pack.fingerprint == first.pack.fingerprint, "as the record says"
    (first.pack.folder / "names.bin").write_bytes(b"")
    with pytest.raises(UserError, match="changed since they were packed: type the same"):
        loaded(root)
    again = loaded(root)
    assert again.pack.fingerprint != first.pack.fingerprint and again.pack.folder != first.pack.folder
