"""Downloads against a server on this machine, and archives that should not be trusted."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import rsssl
from rsssl.data.download import extract, fetch
from rsssl.errors import UserError


class Server:
    """Serves `content`; `ranges` false ignores Range, `cut` ends the next answers after so many bytes.

    `raw` holds whole answers, sent in place of the next ones as they are.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.ranges = content, True
        self.cut: list[int] = []
        self.raw: list[bytes] = []
        self.requests: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                header = self.headers.get("Range")
                outer.requests.append(header)
                if outer.raw:
                    self.wfile.write(outer.raw.pop(0))
                    return
                if self.path.endswith("missing.zip"):
                    self.send_error(404)
                    return
                start = int(header.removeprefix("bytes=").removesuffix("-")) if header and outer.ranges else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.cut.pop(0)] if outer.cut else body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/tiles.zip"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name in ("River", "Forest"):
            for i in range(3):
                packed.writestr(f"Tiles/{name}/{i}.jpg", bytes(range(256)) * 40)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(archive())
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.mark.parametrize("method", ["md5", "sha1", "sha256"])
def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path, method: str) -> None:
    checksum = hashlib.new(method, server.content).hexdigest()
    target = fetch(server.url, checksum, tmp_path / "new" / "tiles.zip")
    assert target.read_bytes() == server.content and not target.with_name("tiles.zip.part").exists()
    fetch(server.url, checksum.upper(), target)
    assert len(server.requests) == 1
    assert [f.name for f in target.parent.iterdir() if f.name[0] != "."] == ["tiles.zip"], "locks are hidden"


def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut = [1000, 5000]
    target = fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "tiles.zip")
    assert target.read_bytes() == server.content
    assert server.requests == [None, "bytes=1000-", "bytes=6000-"]


CONFUSED = {
    "a chunked answer that ends in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nabc",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
    "no HTTP": b"220 ftp ready\r\n",
    "nothing": b"",
    "a length in words": b"HTTP/1.0 503 Busy\r\nContent-Length: many\r\n\r\n",
}


@pytest.mark.parametrize("answer", CONFUSED.values(), ids=CONFUSED)
def test_a_confused_server_is_asked_again_then_named(server: Server, tmp_path: Path, answer: bytes) -> None:
    server.raw = [answer]
    target = fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "tiles.zip")
    assert target.read_bytes() == server.content and len(server.requests) == 2
    server.raw = [answer] * 3
    with pytest.raises(UserError, match=r"cannot be fetched.*run the same command again"):
        fetch(server.url, "0" * 32, tmp_path / "other.zip")
    assert len(server.requests) == 5


def test_a_length_that_is_no_number_is_no_length(server: Server, tmp_path: Path) -> None:
    server.raw = [b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n" + server.content]
    target = fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "tiles.zip")
    assert target.read_bytes() == server.content and len(server.requests) == 1


@pytest.mark.parametrize("url", ["tiles.zip", "http://[/tiles.zip", "", "file:///nowhere/tiles.zip"])
def test_an_address_or_a_checksum_that_is_none_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no address|cannot be fetched"):
        fetch(url, "0" * 32, tmp_path / "a.zip")
    with pytest.raises(UserError, match=r"checksum abc"):
        fetch(url, "abc", tmp_path / "a.zip")


def test_a_part_of_an_earlier_run_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiles.zip.part").write_bytes(server.content[:7000])
    fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "tiles.zip")
    assert server.requests == ["bytes=7000-"]
    (tmp_path / "all.zip.part").write_bytes(server.content)
    assert fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "all.zip").is_file()


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "tiles.zip.part").write_bytes(server.content[:7000])
    target = fetch(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "tiles.zip")
    assert target.read_bytes() == server.content


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checksum"):
        fetch(server.url, "0" * 32, tmp_path / "tiles.zip")
    assert not list(tmp_path.glob("tiles.zip*[pt]"))


def test_a_missing_file_and_a_dead_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"404.*save it as"):
        fetch(server.url.replace("tiles", "missing"), "0" * 32, tmp_path / "a.zip")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(server.url, "0" * 32, tmp_path / "b.zip")


def test_a_dataset_fetches_itself_only_when_asked(server: Server, tmp_path: Path) -> None:
    make = partial(
        rsssl.dataset,
        "tiles",
        root=str(tmp_path / "data" / "Tiles"),
        classes=["Forest", "River"],
        url=server.url,
        md5=hashlib.md5(server.content).hexdigest(),
    )
    with pytest.raises(UserError, match=r"dataset\.download=true"):
        make().catalog()
    catalog = make(download=True).catalog()
    assert len(catalog) == 6 and catalog.classes == ("Forest", "River") and len(server.requests) == 1
    assert len(make(download=True).catalog()) == 6 and len(server.requests) == 1
    with pytest.raises(UserError, match="no download"):
        rsssl.dataset("aid", root=str(tmp_path / "none"), download=True).catalog()


def tar_of(path: Path, *members: tuple[str, bytes, dict[str, object]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_tar_file(tmp_path: Path) -> None:
    extract(tar_of(tmp_path / "a.tgz", ("River/1.jpg", b"abc", {}), ("Forest/deep/2.jpg", b"de", {})), tmp_path / "out")
    assert (tmp_path / "out/River/1.jpg").read_bytes() == b"abc" and (
        tmp_path / "out/Forest/deep/2.jpg"
    ).read_bytes() == b"de"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as packed:
            packed.writestr("good.jpg", b"x")
            packed.writestr(name, b"x")
    else:
        tar_of(tmp_path / "a", ("good.jpg", b"x", {}), (name, b"x", {}))
    if name.startswith("C:"):
        extract(tmp_path / "a", tmp_path / "out")  # only a strange name here, and inside the folder
    else:
        with pytest.raises(UserError, match="not safe"):
            extract(tmp_path / "a", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert not any(p.name == "evil" and tmp_path / "out" not in p.parents for p in tmp_path.rglob("*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    tar_of(tmp_path / "a.tgz", ("link", b"", {"type": kind, "linkname": "/etc/passwd"}))
    with pytest.raises(UserError, match="not safe"):
        extract(tmp_path / "a.tgz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="not safe"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_bombs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", b"\0" * (80 << 20))
    with pytest.raises(UserError, match="believable"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(UserError, match="believable"):
        extract(tar_of(tmp_path / "b.tgz", ("a", b"x" * 1000, {})), tmp_path / "out", max_bytes=999)
    assert not (tmp_path / "out").exists()


def test_rar_and_rubbish(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x00" + b"x" * 100)
    with pytest.raises(UserError, match=r"RAR.*dataset\.root="):
        extract(tmp_path / "a.rar", tmp_path / "out")
    (tmp_path / "a.zip").write_bytes(archive()[:5000])
    with pytest.raises(UserError, match="cannot be unpacked"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def zip_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, b"x")
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names", [(".",), ("./.",), ("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b", "a//b"), ("a/", "a")]
)
def test_members_that_would_lie_in_each_others_place(names: tuple[str, ...], tmp_path: Path) -> None:
    for packed in (zip_of(tmp_path / "a.zip", *names), tar_of(tmp_path / "a.tgz", *((n, b"x", {}) for n in names))):
        with pytest.raises(UserError, match="twice, or as a file and as a folder"):
            extract(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_folder_may_be_named_twice_and_first_or_last(tmp_path: Path) -> None:
    extract(zip_of(tmp_path / "a.zip", "a/b", "a/", "./a/c", "a/"), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == ["b", "c"]


def test_an_archive_that_is_encrypted_or_packed_in_an_unknown_way(tmp_path: Path) -> None:
    """The two bytes at 6 and 8 of a zip's header, and at 8 and 10 of its directory: flags, and how it is packed."""
    whole = zip_of(tmp_path / "a.zip", "a.jpg").read_bytes()
    at = whole.index(b"PK\x01\x02")
    for offset, value, reason in ((0, 1, "encrypted"), (2, 99, "compression")):
        changed = bytearray(whole)
        changed[6 + offset] = changed[at + 8 + offset] = value
        (tmp_path / "a.zip").write_bytes(changed)
        with pytest.raises(UserError, match=rf"cannot be unpacked.*{reason}.*type dataset\.root=FOLDER"):
            extract(tmp_path / "a.zip", tmp_path / "out")
