"""What lies beside a pack's pixels: names, labels, moments, places, against what it was made of; and older packs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.ground import Ground
from rsssl.data.names import Names, content_of, name_ids
from rsssl.data.pack import Pack, opened
from rsssl.data.packing import pack
from rsssl.data.write_pack import CARD_BYTES
from rsssl.errors import UserError

NAMES = [
    "a/1.tif",
    "été/\U0001f6f0.png",
    "",
    "b/" + "long" * 900,
    os.fsdecode(b"bad\xff\xfe.jpg"),
    "c.tar.gz",
    ".hidden",
]


def test_names_are_those_of_the_list_they_were_made_of() -> None:
    encoded = [os.fsencode(name) for name in NAMES]
    content, ids = content_of(encoded), name_ids(encoded)
    names = Names(len(NAMES), lambda: content, lambda: ids)
    assert list(names) == NAMES and len(names) == len(NAMES)
    assert [names[i] for i in range(-7, 7)] == NAMES + NAMES
    for part in (slice(1, 5), slice(None, None, -2), slice(-3, 100), slice(4, 2)):
        assert names[part] == NAMES[part]
    rows = np.array([3, 0, 3, 6])
    assert names.select(rows) == [NAMES[i] for i in rows] and names.select(rows[:0]) == []
    assert names.index("c.tar.gz") == 5 and "b" not in names
    with pytest.raises(IndexError):
        names[7]


def test_many_names_are_decoded_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsssl.data.names.BLOCK", 3)
    expected = [f"{i:x}" * (i % 5) for i in range(20)]
    content = content_of([name.encode() for name in expected])
    assert list(Names(20, lambda: content, lambda: content)) == expected


def test_ids_are_of_the_name_without_its_suffix() -> None:
    stems = [b"a/1", "été/\U0001f6f0".encode(), b"", b"b/" + b"long" * 900, b"bad\xff\xfe", b"c.tar", b".hidden"]
    expected = [int.from_bytes(hashlib.sha256(stem).digest()[:8], "little") for stem in stems]
    assert name_ids(os.fsencode(name) for name in NAMES).tolist() == expected


def test_what_was_written_is_what_is_read(written: Callable[..., Pack], tmp_path: Path) -> None:
    random, n = np.random.default_rng(0), len(NAMES)
    places = Ground(
        random.random((n, 2)), random.random(n), np.arange(3 * n).reshape(n, 3), np.arange(n), np.arange(n) > 3
    )
    labels = np.array([0, 1, -1, 0, 1, 1, -1])
    whole = written(tmp_path / "pack", NAMES, labels, ("x", "y"), ground=places, skipped={"bad.png": "broken"})
    pixels, moments = np.random.default_rng(n), None
    images = pixels.integers(0, 9, (n, 2, 3, 4), np.uint16)
    moments = pixels.random((n, 2, 3))
    assert np.array_equal(whole.images, images) and np.array_equal(whole.read(np.array([6, 0])), images[[6, 0]])
    out = np.zeros((2, 2, 3, 4), np.uint16)
    assert whole.read(np.array([3, 3]), out) is out and np.array_equal(out, images[[3, 3]])
    assert whole.labels.tolist() == labels.tolist() and whole.labelled
    assert np.array_equal(whole.moments, moments) and np.array_equal(whole.sums, moments.sum(0))
    assert list(whole.paths) == NAMES and whole.skipped == {"bad.png": "broken"} and whole.n_skipped == 1
    assert whole.ground is not None
    for field in ("lonlat", "side", "windows", "feature", "own_test"):
        assert np.array_equal(getattr(whole.ground, field), getattr(places, field))
    assert (whole.image_shape, whole.image_bytes, whole.done) == ((2, 3, 4), 48, {"resized": 2})
    for name, digest in whole.checksums.items():
        assert hashlib.sha256((whole.folder / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in whole.folder.iterdir()} == {"card.json", *whole.checksums}
    card = whole.card.to_dict()
    del card["name"]  # the same images may be called otherwise
    content = [whole.sha256, card, labels.tolist(), NAMES]
    assert whole.fingerprint == hashlib.sha256(json.dumps(content).encode()).hexdigest()


def test_labels_of_unlabelled_images_take_no_memory(written: Callable[..., Pack], tmp_path: Path) -> None:
    whole = written(tmp_path / "pack", NAMES, np.full(7, -1))
    assert whole.labels.tolist() == [-1] * 7 and whole.labels.strides == (0,) and not whole.labelled
    assert not (whole.folder / "labels.bin").exists() and whole.skipped == {} and whole.ground is None


def test_the_card_stays_small_with_many_classes(written: Callable[..., Pack], tmp_path: Path) -> None:
    classes = tuple(f"a class with a long name {i}" for i in range(400))
    whole = written(tmp_path / "pack", NAMES, np.array([0, 399, -1, 5, 5, 5, 5]), classes)
    assert (whole.folder / "card.json").stat().st_size <= CARD_BYTES and whole.card.classes == classes
    few = written(tmp_path / "few", NAMES, np.zeros(7, np.int64), ("x",))
    assert not (few.folder / "classes.json").exists() and few.card.classes == ("x",)


def test_large_files_are_compared_with_their_checksums_by_verify(
    written: Callable[..., Pack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(tmp_path / "pack", NAMES, np.zeros(7, np.int64), ("x",))
    monkeypatch.setattr("rsssl.data.pack.CHECKED", 0)
    for name in whole.checksums:
        file, data = whole.folder / name, (whole.folder / name).read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 4]))
        with pytest.raises(UserError, match=rf"checksum of {name}.*rm -r"):
            Pack.open(whole.folder).verify()
        file.write_bytes(data)
    Pack.open(whole.folder).verify()


def first_kind(whole: Pack, folder: Path) -> None:
    """Writes a pack as the versions before this layout did."""
    folder.mkdir()
    (folder / "images.bin").write_bytes((whole.folder / "images.bin").read_bytes())
    np.save(folder / "moments.npy", whole.moments)
    meta = {
        "card": whole.card.to_dict(),
        "sha256": whole.sha256,
        "source": whole.source,
        "root": whole.root,
        "skipped": whole.skipped,
        "done": whole.done,
        "labels": whole.labels.tolist(),
        "paths": list(whole.paths),
    }
    text = json.dumps([meta[k] for k in ("sha256", "card", "labels", "paths")])
    meta["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "card.json").write_text(json.dumps(meta))
    if whole.ground is not None:
        whole.ground.save(folder / "ground.npz")


def test_a_pack_of_the_first_kind_is_opened_as_it_is(written: Callable[..., Pack], tmp_path: Path) -> None:
    at = np.random.default_rng(0).random((7, 2))
    places = Ground(at, np.ones(7), np.ones((7, 3), int), np.arange(7), np.zeros(7, bool))
    new = written(
        tmp_path / "new", NAMES, np.array([0, 1, -1, 0, 1, 1, -1]), ("x", "y"), ground=places, skipped={"b": "c"}
    )
    first_kind(new, tmp_path / "old")
    old = Pack.open(tmp_path / "old")
    old.verify()
    assert (old.fingerprint, old.source, old.root, old.card) == (new.fingerprint, new.source, new.root, new.card)
    assert list(old.paths) == NAMES and np.array_equal(old.paths.ids(), new.paths.ids())
    assert np.array_equal(old.labels, new.labels) and old.labelled and old.skipped == {"b": "c"}
    assert np.array_equal(old.moments, new.moments) and np.array_equal(old.sums, new.sums)
    assert np.array_equal(old.read(np.arange(7)), new.images) and np.array_equal(old.images, new.images)
    assert old.ground is not None and np.array_equal(old.ground.lonlat, places.lonlat)


@pytest.mark.parametrize("name", ["images.bin", "moments.npy", "card.json"])
def test_a_damaged_pack_of_the_first_kind_is_named(written: Callable[..., Pack], tmp_path: Path, name: str) -> None:
    first_kind(written(tmp_path / "new", NAMES, np.zeros(7, np.int64), ("x",)), tmp_path / "old")
    file = tmp_path / "old" / name
    content = file.read_bytes()
    for damage in (b"", content[:-20], content.replace(b"a/1", b"a/2") if name == "card.json" else content[:9]):
        file.write_bytes(damage)
        with pytest.raises(UserError, match="rm -r"):
            opened(tmp_path / "old")


def test_packing_keeps_a_pack_of_the_first_kind(root: Path, packed: Callable[..., Pack], tmp_path: Path) -> None:
    import rsssl

    new = packed(root)
    first_kind(new, tmp_path / "old")
    again = pack(rsssl.dataset("folder", str(root)), tmp_path / "old", workers=1, progress=False)
    assert again.fingerprint == new.fingerprint and (tmp_path / "old" / "moments.npy").is_file()
