"""Damaged and hostile archives: what is unpacked lies inside the folder, or a sentence says why it is not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from rsssl.data.decoders import BadImage
from rsssl.data.download import extract
from rsssl.data.shards import Shards
from rsssl.errors import UserError

GOOD = ["a.jpg", "a/b.jpg", "a/b/c.jpg", "b/é.jpg", "b/漢.jpg", "c//d.jpg", "./e.jpg", "f/"]
BAD = ["a", "a/", ".", "", "../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "x" * 300, "/", "a/./"]
pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")


def an_archive(random: Random) -> bytes:
    """A zip or tar file, packed in any way, of a few files with any names."""
    buffer, names = io.BytesIO(), random.choice([GOOD, GOOD + BAD])
    members = [(name, random.randbytes(random.randrange(400))) for name in random.sample(names, 4)]
    if random.random() < 0.5:
        packing = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        with zipfile.ZipFile(buffer, "w", packing) as packed:
            for name, content in members:
                packed.writestr(zipfile.ZipInfo(name) if name else "a.jpg", content, packing)
        return buffer.getvalue()
    form = random.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(None, random.choice(["w", "w:gz", "w:bz2", "w:xz"]), buffer, format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name[:90])
            info.size = len(content)
            if random.random() < 0.1:
                info.type = random.choice([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
                info.linkname = random.choice(BAD)[:90]
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def damaged(random: Random, content: bytes) -> bytes:
    """The same with a few bytes changed, mostly where headers are, or cut, or with a part twice."""
    changed = bytearray(content)
    for _ in range(random.choice([0, 1, 1, 2, 5])):
        at = random.choice([random.randrange(len(changed)), max(0, len(changed) - random.randrange(1, 200))])
        changed[at] = random.choice([random.randrange(256), changed[at] ^ 1 << random.randrange(8), 0, 255])
    if random.random() < 0.1:
        del changed[random.randrange(len(changed)) :]
    if random.random() < 0.1:
        changed[random.randrange(len(changed)) :] = changed[random.randrange(len(changed)) :]
    return bytes(changed)


def test_any_archive_unpacks_inside_its_folder_or_is_refused(
    cases: Callable[[int], Iterator[Random]], tmp_path: Path
) -> None:
    for number, random in enumerate(cases(300)):
        place = tmp_path / str(number)
        (place / "deep").mkdir(parents=True)
        archive, into = place / "deep" / "archive", place / "deep" / "out"
        archive.write_bytes(damaged(random, an_archive(random)))
        try:
            extract(archive, into)
        except UserError as error:
            assert "type dataset.root=FOLDER" in str(error)
        except BaseException as error:
            raise AssertionError(f"case {number}") from error
        outside = {p for p in place.rglob("*") if p not in (place / "deep", archive, into) and into not in p.parents}
        assert not outside, f"case {number}"
        assert not into.exists() or into.is_dir(), f"case {number}"
        assert not any(p.is_symlink() or not (p.is_file() or p.is_dir()) for p in into.rglob("*")), f"case {number}"
    assert not list(Path("/tmp").glob("evil*"))


def test_any_archive_is_read_where_it_lies_as_tarfile_does_or_is_refused(
    cases: Callable[[int], Iterator[Random]], tmp_path: Path
) -> None:
    read = 0
    for number, random in enumerate(cases(600)):
        whole, archive = an_archive(random), tmp_path / "archive.tar"
        content = random.choice([whole, damaged(random, whole)])
        archive.write_bytes(content)
        try:
            catalog = Shards([str(archive)], []).catalog()
        except UserError as error:
            assert "make it again" in str(error) or "type" in str(error), f"case {number}"
            continue
        except BaseException as error:
            raise AssertionError(f"case {number}") from error
        rasters = list(catalog.rasters(range(len(catalog))))
        assert all(isinstance(raster, BadImage) for raster in rasters), f"case {number}"  # of random bytes
        if content is whole:
            with tarfile.open(archive) as tar:
                members = [m for m in tar.getmembers() if Path(m.name).suffix == ".jpg"]
            found = [
                (path.split("/", 1)[1], *place[1:]) for path, place in zip(catalog.paths, catalog.places, strict=True)
            ]
            assert found == [(m.name, m.offset_data, m.size) for m in members], f"case {number}"
            read += 1
    assert read > 10
