"""Datasets that a list names, against the same files in class folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rsssl
from rsssl.data.catalog import Catalog
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.errors import UserError


def packed(folder: Path, **fields: object) -> Pack:
    return pack(rsssl.dataset("folder", **fields), folder, workers=1, progress=False)  # type: ignore[arg-type]


def listed(name: object, root: object = None, **fields: object) -> Catalog:
    given = {"list": str(name), "root": root and str(root)} | fields
    return rsssl.dataset("folder", **given).catalog()  # type: ignore[arg-type]


def rows(root: Path, absolute: bool = False) -> list[tuple[str, str]]:
    """Path and class of each image, the last one first."""
    files = sorted(root.rglob("*.png"), reverse=True)
    return [(str(f) if absolute else str(f.relative_to(root)), f.parent.name) for f in files]


def write(kind: str, path: Path, images: list[tuple[str, str]]) -> Path:
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        names, classes = zip(*images, strict=True)
        parquet.write_table(pa.table({"size": [1] * len(names), "url": names, "label": classes}), path)
    else:
        lines = [f'{i},"{name}",{label}' for i, (name, label) in enumerate(images)]
        path.write_text("\n".join(["number,path,class", *lines]) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_table_is_packed_as_class_folders_are(
    pictures: Callable[..., Path], tmp_path: Path, kind: str, absolute: bool
) -> None:
    root = pictures(4)
    file = write(kind, tmp_path / f"list.{kind}", rows(root, absolute))
    tree, table = packed(tmp_path / "a", root=str(root)), packed(tmp_path / "b", root=str(root), list=str(file))
    assert table.fingerprint == tree.fingerprint  # pixels, names, labels, card


def test_paths_are_relative_to_the_list_where_no_root_is_given(pictures: Callable[..., Path]) -> None:
    root = pictures(2)
    (root / "some.txt").write_text("water/0001.png\n./field/../field/0000.png\n")
    catalog = listed(root / "some.txt")
    assert list(catalog.paths) == ["field/0000.png", "water/0001.png"] and catalog.root == str(root)
    assert catalog.labels.tolist() == [-1, -1] and catalog.classes == ()
    (root.parent / "other.png").write_bytes((root / "water" / "0001.png").read_bytes())
    (root / "some.txt").write_text("../other.png\n")
    assert list(listed(root / "some.txt").paths) == [str(root.parent / "other.png")]


@pytest.mark.parametrize("table", [True, False])
def test_a_list_comes_in_through_the_standard_input(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: bool
) -> None:
    root = pictures(2)
    text = "\n".join(["path,class"] * table + [",".join(row) if table else row[0] for row in rows(root)])
    (tmp_path / "in").write_text(text)
    with open(tmp_path / "in") as file:
        monkeypatch.setattr(sys, "stdin", file)
        dataset = rsssl.dataset("folder", list="-", root=str(root))
        catalog, again = dataset.catalog(), dataset.catalog()  # it can be read once
    assert list(again.paths) == list(catalog.paths) == sorted(row[0] for row in rows(root))
    assert catalog.classes == (("field", "water") if table else ())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="read by one process"):
        listed("-", root)


def test_classes_are_names_or_numbers(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path,label\na.png,10\nb.png,9\nc.png,\nd.png,10\n")
    assert (listed(file).classes, listed(file).labels.tolist()) == (("9", "10"), [1, 0, -1, 1])
    assert listed(file, classes=[]).labels.tolist() == [-1] * 4
    file.write_text("path,label\na.png,Sea_Lake\nb.png,1\nc.png,2\n")
    official = listed(file, classes=["Forest", "River", "sea lake"])  # as they are spelt there, or counted from 0
    assert (official.classes, official.labels.tolist()) == (("River", "sea lake"), [1, 0, 1])
    with pytest.raises(UserError, match=r"dataset\.list=.*list\.csv has the class '2', which is none of the 2"):
        listed(file, classes=["sea lake", "Forest"])
    file.write_text("path,label\n" + "".join(f"{i}.png,caption {i}\n" for i in range(10_001)))
    with pytest.raises(UserError, match=r"more than 10,000 classes.*'dataset\.classes=\[\]'"):
        listed(file)


def test_another_class_is_another_dataset(pictures: Callable[..., Path], tmp_path: Path) -> None:
    root = pictures(2)
    first = listed(write("csv", tmp_path / "a.csv", rows(root)), root).listing()
    same = listed(write("csv", tmp_path / "b.csv", rows(root)[::-1]), root).listing()
    other = [(path, "water") for path, _ in rows(root)]
    assert first == same != listed(write("csv", tmp_path / "c.csv", other), root).listing()
    os.utime(root / "water" / "0000.png", ns=(1, 1))
    assert first != listed(tmp_path / "a.csv", root).listing()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png\nb.png\n./a.png\n", r"lists a\.png twice"),
        ("\n\n", r"lists no image"),
        ("path,class\n", r"lists no image"),
        ("a.png\nhttps://evil.example/x.png\n", r"line 2 names https://evil.example/x.png, and an address is only"),
        ("a.png\n\0\n", r"line 2 holds a zero byte"),
        ("/vsicurl/https://evil.example/x.png\n", r"line 1 names /vsicurl/https:"),  # GDAL would open it
        ("missing.png\n", None),
    ],
)
def test_a_list_that_cannot_be_meant_is_named(tmp_path: Path, text: str, message: str | None) -> None:
    file = tmp_path / "some.txt"
    file.write_text(text)
    if message is None:
        with pytest.raises(UserError, match=r"(x|missing)\.png: cannot be read \(No such file"):
            packed(tmp_path / "p", list=str(file))
        return
    with pytest.raises(UserError, match=message):
        listed(file)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "no column"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    pytest.importorskip("pyarrow")
    file = write("parquet", tmp_path / "list.parquet", [("a.png", "x")] * 40)
    whole = file.read_bytes()
    if damage == "no column":
        file.write_bytes(whole.replace(b"url", b"uri"))
    else:
        file.write_bytes({"empty": b"", "half": whole[len(whole) // 2 :], "text": b"path\na.png\n"}[damage])
    with pytest.raises(UserError, match=r"list\.parquet (is damaged|has no column path, but size, uri)"):
        listed(file)


def test_a_list_is_packed_by_a_command(pictures: Callable[..., Path], tmp_path: Path, workshop) -> None:
    root = pictures(3)
    write("csv", tmp_path / "list.csv", rows(root))
    keys = ["task=pack", "dataset=folder", f"dataset.root={root}"]
    text = workshop.run(tmp_path, *keys, f"dataset.list={tmp_path / 'list.csv'}", "pack.tiles=4")
    assert "packing 6 images" in text and "in 2 parts of 4" in text and "water" in text
    assert "6 images of 16 x 16 x 3, 2 classes" in text
    again = workshop.run(tmp_path, *keys, f"dataset.list={tmp_path / 'list.csv'}")  # whatever the size of its parts
    assert "reused" in again and "packing" not in again
