"""Tar archives in the layout of WebDataset, against the same files in class folders; and archives not to be trusted."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data import shards
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.shards import Shards, expanded, named
from rsssl.errors import UserError

CLASSES = ("field", "water")


def add(archive: tarfile.TarFile, name: str, content: bytes, **header: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def beside(label: int, kind: str) -> dict[str, bytes]:
    """What stands beside an image of a class, in an archive of that kind."""
    return {
        "cls": {".cls": f"{label}\n".encode()},
        "txt": {".txt": CLASSES[label].encode()},
        "json": {".json": json.dumps({"caption": "a tile", "label": CLASSES[label]}).encode()},
        "all": {".json": b'{"label": "other"}', ".txt": b"other", ".cls": str(label).encode()},
        "none": {},
    }[kind]


def shard(root: Path, folder: Path, kind: str = "cls", tar: int = tarfile.PAX_FORMAT, per: int = 3) -> list[Path]:
    """The files of class folders in archives of `per` images; every other name is so long that it needs a record."""
    folder.mkdir()
    files = sorted(root.rglob("*.*"))
    for n in range(0, len(files), per):
        with tarfile.open(folder / f"tiles-{n // per:03d}.tar", "w", format=tar) as archive:
            for i, file in enumerate(files[n : n + per], n):
                stem = f"{'deep/' * (30 * (i % 2))}{i:04d}-é"
                more = beside(CLASSES.index(file.parent.name), kind)
                for suffix, content in {file.suffix: file.read_bytes(), **more}.items():
                    add(archive, stem + suffix, content)
    return sorted(folder.iterdir())


def packed(folder: Path, **fields: object) -> Pack:
    return pack(rsssl.dataset("folder", **fields), folder, workers=1, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cls", "txt", "json", "all"])
@pytest.mark.parametrize("tar", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archives_hold_what_class_folders_hold(
    pictures: Callable[..., Path], tmp_path: Path, kind: str, tar: int
) -> None:
    root = pictures(4)
    shard(root, tmp_path / "shards", kind, tar)
    classes = list(CLASSES) if kind in ("cls", "all") else None
    tree = packed(tmp_path / "a", root=str(root))
    archived = packed(tmp_path / "b", root=str(tmp_path / "shards"), classes=classes)
    assert archived.sha256 == tree.sha256 and archived.card == tree.card
    assert archived.labels.tolist() == tree.labels.tolist() and archived.card.classes == CLASSES
    assert archived.paths[0] == "tiles-000.tar/0000-é.png" and archived.paths[7].startswith("tiles-002.tar/deep/")


def test_geotiffs_with_and_without_gdal_in_archives(rasters: Callable[..., Path], tmp_path: Path) -> None:
    """Read by our own reader where they are plain, else by GDAL from memory."""
    random = np.random.default_rng(0)
    root = rasters([random.integers(0, 3000, (5, 16, 16)).astype(np.uint16) for _ in range(4)], 0, [*"abcde"])
    gdal = pytest.importorskip("osgeo.gdal")
    gdal.UseExceptions()
    gdal.Translate(str(root / "one" / "0001.tif"), str(root / "one" / "0000.tif"), creationOptions=["COMPRESS=LZW"])
    Image.fromarray(random.integers(0, 60000, (16, 16), dtype=np.uint16)).save(tmp_path / "grey16.png")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for file in sorted(root.rglob("*.tif")):
            archive.add(file, file.name)
    assert packed(tmp_path / "a", root=str(root)).sha256 == packed(tmp_path / "b", root=str(tmp_path / "x.tar")).sha256
    assert packed(tmp_path / "b", root=str(tmp_path / "x.tar")).card.bands == tuple("abcde")
    name, content = str(tmp_path / "grey16.png"), (tmp_path / "grey16.png").read_bytes()
    assert np.array_equal(rsssl.data.raster.read(name).pixels, rsssl.data.raster.read("a.png", content=content).pixels)


def test_without_classes_archives_are_unlabelled(pictures: Callable[..., Path], tmp_path: Path) -> None:
    shard(pictures(2), tmp_path / "shards", "txt")
    catalog = rsssl.dataset("folder", root=str(tmp_path / "shards"), classes=[]).catalog()
    assert catalog.classes == () and catalog.labels.tolist() == [-1] * 4


def test_patterns_name_archives_as_a_shell_does(tmp_path: Path) -> None:
    assert list(expanded("a-{008..011}.tar")) == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert list(expanded("{a,b}{1..2}.tar")) == ["a1.tar", "a2.tar", "b1.tar", "b2.tar"]
    for name in ("x-1.tar", "x-2.tar", "y-1.tar", "README.md"):
        (tmp_path / name).write_bytes(b"")
    assert named(str(tmp_path)) == [str(tmp_path / n) for n in ("x-1.tar", "x-2.tar", "y-1.tar")]
    assert named(f"{tmp_path}/x-*.tar") == [str(tmp_path / n) for n in ("x-1.tar", "x-2.tar")]
    with pytest.raises(UserError, match=r"no file has such a name"):
        named(f"{tmp_path}/z-*.tar")
    with pytest.raises(UserError, match=r"x-3\.tar cannot be read"):
        Shards(named(f"{tmp_path}/x-{{1..3}}.tar"), None)
    (tmp_path / "river").mkdir()
    assert named(str(tmp_path)) == []  # class folders, beside which archives happen to lie


def test_what_was_read_of_headers_is_kept_for_other_processes(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(pictures(3), tmp_path / "shards", "txt")
    (tmp_path / "store").mkdir()
    source = Shards(named(str(tmp_path / "shards")), None)
    here, first = source.catalog(), source.catalog(tmp_path / "store" / ".index")
    monkeypatch.setattr(shards, "images_of", lambda *_: pytest.fail("headers are read again"))
    second = Shards(named(str(tmp_path / "shards")), None).catalog(tmp_path / "store" / ".index")
    for catalog in (first, second):
        assert list(catalog.paths) == list(here.paths) and catalog.classes == here.classes
        assert np.array_equal(catalog.places, here.places) and np.array_equal(catalog.labels, here.labels)
    part = second.part(2, 5)
    assert list(part.paths) == list(here.paths)[2:5] and np.array_equal(part.places, here.places[2:5])
    assert part.listing() != second.listing() != Shards(source.archives[:1], None).listing()


def hostile(folder: Path, name: str, content: bytes = b"x", **header: object) -> str:
    path = folder / "bad-0.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "good.png", b"y")
        add(archive, name, content, **header)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "header", "message"),
    [
        ("../x.png", b"x", {}, r"bad-0\.tar holds '\.\./x\.png', whose name leads out"),
        ("/etc/x.png", b"x", {}, r"bad-0\.tar holds '/etc/x\.png'"),
        ("a/../../x.cls", b"1", {}, r"whose name leads out"),
        (
            "link.png",
            b"",
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            r"link\.png is a link or no plain file",
        ),
        ("hard.tif", b"", {"type": tarfile.LNKTYPE, "linkname": "good.png"}, r"hard\.tif is a link"),
        ("pipe.png", b"", {"type": tarfile.FIFOTYPE}, r"pipe\.png is a link or no plain file"),
        ("good.png", b"z", {}, r"holds good\.png twice"),
        ("good.cls", b"seven", {}, r"bad-0\.tar: good\.cls holds b'seven', not a number: correct it"),
        ("good.cls", b"-1", {}, r"good\.cls holds b'-1', which is no class"),
        ("good.json", b'{"caption": "x"}', {}, r"good\.json holds .* not a class, under class, label or cls"),
        ("good.json", b"[" * 9000, {}, r"good\.json holds"),
        ("good.txt", b"a" * 70_000, {}, r"good\.txt has 70000 bytes"),
    ],
)
def test_a_member_that_cannot_be_meant_is_named(
    tmp_path: Path, name: str, content: bytes, header: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rsssl.dataset("folder", root=hostile(tmp_path, name, content, **header)).catalog()


def test_a_class_that_is_not_official_is_named(tmp_path: Path) -> None:
    root = hostile(tmp_path, "good.cls", b"2")
    with pytest.raises(UserError, match=r"the class '2', which is none of the 2 of dataset\.classes"):
        rsssl.dataset("folder", root=root, classes=list(CLASSES)).catalog()
    root = hostile(tmp_path, "good.txt", b"watr")
    with pytest.raises(UserError, match=r"the class 'watr'.*the nearest is water"):
        rsssl.dataset("folder", root=root, classes=list(CLASSES)).catalog()


@pytest.mark.parametrize("keep", [0, 1, 511, 700, 1500, 2048, -1024, -513])
def test_an_archive_that_is_cut_short_is_named(pictures: Callable[..., Path], tmp_path: Path, keep: int) -> None:
    (path, *_) = shard(pictures(1), tmp_path / "shards", per=2)
    content = path.read_bytes().rstrip(b"\0")
    content += b"\0" * (-len(content) % 512 + 1024)  # as short as it may be
    path.write_bytes(content)
    assert len(rsssl.dataset("folder", root=str(path)).catalog()) == 2
    path.write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"tiles-000\.tar is cut short"):
        rsssl.dataset("folder", root=str(path)).catalog()


@pytest.mark.parametrize("at", [0, 124, 130, 148, 156, 257])
def test_a_damaged_header_is_named_with_its_place(pictures: Callable[..., Path], tmp_path: Path, at: int) -> None:
    (path, *_) = shard(pictures(1), tmp_path / "shards", per=2)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x11
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tiles-000\.tar is no tar archive, or damaged at byte 0"):
        rsssl.dataset("folder", root=str(path)).catalog()


def test_other_files_named_tar_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        add(archive, "a.png", np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match=r"x\.tar is compressed.*gunzip"):
        rsssl.dataset("folder", root=str(tmp_path / "x.tar")).catalog()
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(UserError, match=r"hold no image"):
        rsssl.dataset("folder", root=str(tmp_path / "empty.tar")).catalog()


@pytest.mark.parametrize("how", ["damaged", "large", "pointer"])
def test_an_image_that_cannot_be_used_is_named_or_left_out(
    pictures: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    files = shard(pictures(3), tmp_path / "shards", "txt")
    with tarfile.open(files[-1], "w") as archive:
        if how == "large":
            add(archive, "bad.png", bytes(200_000_000))
        else:
            add(archive, "bad.vrt" if how == "pointer" else "bad.png", b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(UserError, match=r"tiles-001\.tar/bad\.\w+ cannot be used"):
        packed(tmp_path / "p", root=str(tmp_path / "shards"))
    left = packed(tmp_path / "p", root=str(tmp_path / "shards"), on_error="skip")
    assert len(left) == 3 and len(left.skipped) == 1


def test_an_archive_replaced_while_it_is_packed_is_named(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsssl.data import chunks

    files, whole = shard(pictures(3), tmp_path / "shards"), chunks.conform

    def replacing(*image: object) -> object:
        files[1].touch()
        return whole(*image)  # type: ignore[arg-type]

    monkeypatch.setattr(chunks, "conform", replacing)
    with pytest.raises(UserError, match=r"tiles-001\.tar changed while the images were packed"):
        packed(tmp_path / "p", root=str(tmp_path / "shards"))
