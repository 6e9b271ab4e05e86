"""A dataset in many packs against its images in one."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.handles import Descriptor, Handle
from rsssl.data.pack import Pack
from rsssl.data.packs import Packs, join, open_packed
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.records import sealed

SIZES = (4, 1, 7, 3)


def parts(written: Callable[..., Pack], folder: Path, labels: int = 2) -> list[Pack]:
    """Packs of SIZES images; labels in so many of them."""
    packs, first = [], 0
    for k, n in enumerate(SIZES):
        known = np.arange(n) % 2 if k < labels else np.full(n, -1)
        names = [f"{first + i}/x.png" for i in range(n)]
        packs.append(
            written(folder / f"part-{k:05d}", names, known, ("a", "b"), skipped={f"bad{k}": "why"} if k else {})
        )
        first += n
    return packs


@pytest.fixture
def split_up(written: Callable[..., Pack], tmp_path: Path) -> tuple[Packs, list[Pack]]:
    packs = parts(written, tmp_path / "whole")
    return join(tmp_path / "whole", "source", "/root"), packs


def test_many_packs_are_one_after_the_other(split_up: tuple[Packs, list[Pack]]) -> None:
    whole, packs = split_up
    again = open_packed(whole.folder)
    assert isinstance(again, Packs) and len(again) == sum(SIZES) and again.fingerprint == whole.fingerprint
    images = np.concatenate([p.images for p in packs])
    assert np.array_equal(again.read(np.arange(15)), images)
    assert list(again.paths) == [f"{i}/x.png" for i in range(15)] and again.paths[-2] == "13/x.png"
    rows = np.array([14, 0, 5, 4, 5, 11])
    assert again.paths.select(rows) == [f"{i}/x.png" for i in rows.tolist()]
    assert again.labels.tolist() == [*np.concatenate([p.labels for p in packs])] and again.labelled
    assert np.array_equal(again.moments, np.concatenate([p.moments for p in packs]))
    assert np.allclose(again.sums, again.moments.sum(0), rtol=1e-14)
    assert again.skipped == {"bad1": "why", "bad2": "why", "bad3": "why"} and again.n_skipped == 3
    assert again.done == {"resized": 8} and (again.source, again.root) == ("source", "/root")
    assert np.array_equal(again.paths.ids(), np.concatenate([p.paths.ids() for p in packs]))
    count, total, squares = np.concatenate([p.moments for p in packs]).sum(0).T
    assert np.allclose(again.card.mean, total / count)
    assert np.allclose(again.card.std, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)).clip(1e-7))
    again.verify()
    assert len(again.checksums) == 2 + sum(len(p.checksums) for p in packs)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_rows_of_many_packs_come_in_the_order_asked_for(
    split_up: tuple[Packs, list[Pack]], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, packs = split_up
    monkeypatch.setattr("rsssl.data.packs.AT_ONCE", at_once)
    images, rows = np.concatenate([p.images for p in packs]), np.array([14, 0, 5, 4, 5, 11, 3])
    out = np.zeros((7, *whole.image_shape), np.uint16)
    assert np.array_equal(whole.read(rows), images[rows])
    assert whole.read(rows, out) is out and np.array_equal(out, images[rows])
    assert whole.read(rows[:0]).shape == (0, 2, 3, 4)


def test_packs_without_labels_and_without_places(written: Callable[..., Pack], tmp_path: Path) -> None:
    parts(written, tmp_path, labels=0)
    whole = join(tmp_path, "s", "r")
    assert whole.labels.strides == (0,) and not whole.labelled and whole.ground is None
    assert not (tmp_path / "labels.bin").exists()


def test_the_card_of_many_packs_stays_small(written: Callable[..., Pack], tmp_path: Path) -> None:
    parts(written, tmp_path)
    assert (join(tmp_path, "s", "r").folder / "card.json").stat().st_size < 2048


@pytest.mark.parametrize("damage", ["lost", "another", "listed", "labels", "shorter"])
def test_damage_of_a_part_is_named(written: Callable[..., Pack], tmp_path: Path, damage: str) -> None:
    packs = parts(written, tmp_path)
    join(tmp_path, "s", "r")
    victim = packs[2].folder
    if damage == "lost":
        (victim / "card.json").unlink()
    elif damage == "another":
        victim.rename(tmp_path / "kept")
        packs[0].folder.rename(victim)
    elif damage == "listed":
        (tmp_path / "parts.json").write_text((tmp_path / "parts.json").read_text().replace("part-00001", "part-00002"))
    elif damage == "labels":
        (tmp_path / "labels.bin").write_bytes((tmp_path / "labels.bin").read_bytes()[::-1])
    else:
        (victim / "images.bin").write_bytes((victim / "images.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged.*rm -r"):
        open_packed(tmp_path).read(np.array([7]))


def test_a_part_of_another_form_is_refused(written: Callable[..., Pack], tmp_path: Path) -> None:
    packs = parts(written, tmp_path)
    meta = json.loads((packs[1].folder / "card.json").read_text())
    assert meta["card"]["high"] == [9.0, 9.0]
    meta.pop("seal")
    meta["card"]["high"] = [9.0, 8.0]
    (packs[1].folder / "card.json").write_text(json.dumps(sealed(meta)))
    with pytest.raises(UserError, match=r"part-00001.*differ in their high.*rm -r"):
        join(tmp_path, "s", "r")


def few_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at most, beside those that other tests left."""
    monkeypatch.setattr("rsssl.data.handles.LIMIT", 2)
    monkeypatch.setattr("rsssl.data.handles._made", deque())


def test_few_handles_are_open_however_many_packs_are_read(
    split_up: tuple[Packs, list[Pack]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, packs = split_up
    few_handles(monkeypatch)
    descriptors = [p.pixels for p in packs]
    for pack in packs * 2:
        pack.read(np.array([0]))
        assert len(pack.paths[0]) and pack.moments.shape[1:] == (2, 3)
        assert sum(handle._value is not None for handle in descriptors) <= 2
    assert np.array_equal(whole.read(np.arange(15)), np.concatenate([p.images for p in packs]))


def test_a_descriptor_in_use_stays_open_when_others_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads, two handles for six files: nobody reads from a closed file, or from another one."""
    few_handles(monkeypatch)
    for i in range(6):
        (tmp_path / str(i)).write_bytes(bytes([i]) * 8)
    handles, wrong = [Handle(lambda i=i: Descriptor(str(tmp_path / str(i)))) for i in range(6)], []

    def reads(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 6, 300).tolist():
            file = handles[i]()
            if os.pread(file.number, 8, 0) != bytes([i]) * 8:
                wrong.append(i)

    threads = [threading.Thread(target=reads, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "name", ["part-00001/images.bin", "part-00002/names.bin", "part-00000/card.json", "parts.json"]
)
def test_a_stored_dataset_with_a_damaged_part_is_made_again(
    written: Callable[..., Pack], tmp_path: Path, name: str
) -> None:
    """Files in folders are for people only, but for those of parts."""

    def build(folder: Path) -> Pack:
        parts(written, folder)
        return join(folder, "s", "r")

    store = Store(tmp_path)
    first = store.get("pack", {"a": 1}, build)
    assert store.get("pack", {"a": 1}, build).reused
    file = first.folder / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileExistsError):  # `build` is called, and finds the other parts
        store.get("pack", {"a": 1}, build)
    assert not file.exists() and not (first.folder / "done.json").exists()
