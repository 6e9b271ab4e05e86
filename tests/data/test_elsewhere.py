"""Images elsewhere than on this machine: over HTTP and S3 from servers on the loopback, against the same files here."""

from __future__ import annotations

import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsssl
from rsssl.data import remote
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.errors import UserError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


class Server:
    """Serves a folder, with ranges of bytes; `cut` answers end early, `fail` answers are errors, for that many requests
    of a name that ends with `name`."""

    def __init__(self, folder: Path) -> None:
        self.name, self.cut, self.fail, self.ranges = "", 0, 0, True
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
                outer.asked.append((path.name, wanted))
                if not path.is_file():
                    return self.send_error(404)
                body, hit = path.read_bytes(), path.name.endswith(outer.name)
                if outer.fail and hit:
                    outer.fail -= 1
                    return self.send_error(503)
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "") if outer.ranges else None
                if found:
                    body = body[int(found[1]) : int(found[2]) + 1 if found[2] else None]
                self.send_response(206 if found else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if outer.cut and hit:
                    outer.cut -= 1
                    body = body[: len(body) // 2]
                self.wfile.write(body)
                return None

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    server = Server(tmp_path / "www")
    yield server
    server.http.shutdown()
    server.http.server_close()


def packed(folder: Path, workers: int = 1, **fields: object) -> Pack:
    return pack(rsssl.dataset("folder", **fields), folder, workers=workers, progress=False)  # type: ignore[arg-type]


@pytest.fixture
def published(pictures: Callable[..., Path], tmp_path: Path) -> Callable[[Path], Path]:
    """published(folder): puts there class folders, a list of them, and archives of them; gives the class folders."""

    def put(folder: Path) -> Path:
        root = pictures(4)
        files = sorted(root.rglob("*.png"))
        for file in files:
            target = folder / "tree" / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        names = [file.relative_to(root).as_posix() for file in files]
        (folder / "list.csv").write_text("\n".join(["path,class", *(f"tree/{n},{n.split('/')[0]}" for n in names)]))
        for k in range(2):
            with tarfile.open(folder / f"s-{k}.tar", "w") as archive:
                for file in files[4 * k : 4 * k + 4]:
                    archive.add(file, f"{k}{file.stem}.png")
                    (tmp_path / "c.txt").write_text(file.parent.name)
                    archive.add(tmp_path / "c.txt", f"{k}{file.stem}.txt")
        return root

    return put


def same(one: Pack, other: Pack) -> None:
    assert one.sha256 == other.sha256 and one.labels.tolist() == other.labels.tolist() and one.card == other.card


def test_a_list_over_http_is_packed_as_the_files_are(
    served: Server, published: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = published(tmp_path / "www")
    here = packed(tmp_path / "a", root=str(root))
    same(packed(tmp_path / "b", workers=2, list=f"{served.url}/list.csv"), here)
    full = (tmp_path / "www" / "list.csv").read_text().replace("tree/", f"{served.url}/tree/")
    (tmp_path / "here.csv").write_text(full)  # of this machine, and addresses in it
    same(packed(tmp_path / "c", list=str(tmp_path / "here.csv"), root=served.url), here)
    with pytest.raises(UserError, match=r"line 2 names http.*does not lie below dataset\.root=http://localhost:1"):
        packed(tmp_path / "d", list=str(tmp_path / "here.csv"), root="http://localhost:1")
    for name in ("../x.png", "tree/../../x.png", "/etc/x.png", "simplecache::http://h/x.png"):
        (tmp_path / "here.csv").write_text(f"path\n{name}\n")
        with pytest.raises(UserError, match=r"line 2 names .*which does not lie below"):
            packed(tmp_path / "d", list=str(tmp_path / "here.csv"), root=served.url)
    with pytest.raises(UserError, match="joins several addresses"):
        packed(tmp_path / "d", list=str(tmp_path / "here.csv"), root=f"simplecache::{served.url}")


def test_archives_over_http_are_read_where_they_lie(
    served: Server, published: Callable[[Path], Path], tmp_path: Path
) -> None:
    here = packed(tmp_path / "a", root=str(published(tmp_path / "www")))
    same(packed(tmp_path / "b", workers=2, root=f"{served.url}/s-{{0..1}}.tar"), here)
    assert all(wanted for name, wanted in served.asked if name.endswith(".tar"))  # never a whole archive
    with pytest.raises(UserError, match=r"a web server does not list its files"):
        packed(tmp_path / "c", root=f"{served.url}/s-*.tar")
    with pytest.raises(UserError, match=r"s-2\.tar is not there"):
        packed(tmp_path / "c", root=f"{served.url}/s-{{0..2}}.tar")


def test_what_fails_is_asked_for_again(
    served: Server, published: Callable[[Path], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = packed(tmp_path / "a", root=str(published(tmp_path / "www")))
    served.fail, served.name = 2, "0002.png"
    same(packed(tmp_path / "b", list=f"{served.url}/list.csv"), here)
    assert "0002.png cannot be read" in caplog.text and "once more in" in caplog.text
    served.cut, served.name = 2, "s-1.tar"
    same(packed(tmp_path / "c", root=f"{served.url}/s-{{0..1}}.tar"), here)


@pytest.mark.parametrize("how", ["ends early", "breaks down", "knows no ranges"])
def test_a_server_that_goes_on_failing_is_named_and_nothing_is_left_out(
    served: Server, published: Callable[[Path], Path], tmp_path: Path, how: str
) -> None:
    """Not even with dataset.on_error=skip: an image that cannot be fetched now is not one that cannot be used."""
    root = published(tmp_path / "www")
    served.name = "s-1.tar"
    served.cut, served.fail = (99 if how == "ends early" else 0), (99 if how == "breaks down" else 0)
    served.ranges = how != "knows no ranges"
    message = r"s-1\.tar cannot be read" if served.ranges else r"s-\d\.tar: this server gives no parts of files"
    with pytest.raises(UserError, match=message):
        packed(tmp_path / "p", root=f"{served.url}/s-{{0..1}}.tar", on_error="skip")
    served.cut = served.fail = 0
    served.ranges = True
    same(packed(tmp_path / "p", root=f"{served.url}/s-{{0..1}}.tar"), packed(tmp_path / "a", root=str(root)))


def test_a_missing_and_a_damaged_file_are_images_that_cannot_be_used(
    served: Server, published: Callable[[Path], Path], tmp_path: Path
) -> None:
    published(tmp_path / "www")
    (tmp_path / "www/tree/water/0003.png").unlink()
    file = tmp_path / "www/tree/field/0001.png"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(
        UserError, match=r"/tree/(field/0001|water/0003)\.png cannot be used: (damaged|there is no such)"
    ):
        packed(tmp_path / "p", list=f"{served.url}/list.csv")
    left = packed(tmp_path / "p", list=f"{served.url}/list.csv", on_error="skip")
    assert len(left) == 6
    assert left.skipped["tree/water/0003.png"] == "there is no such file"
    assert left.skipped["tree/field/0001.png"].startswith("damaged or cut short")


def test_s3_is_packed_as_the_files_are(bucket: Any, published: Callable[[Path], Path], tmp_path: Path) -> None:
    here = packed(tmp_path / "a", root=str(published(tmp_path / "up")))
    bucket.put(str(tmp_path / "up"), "tiles/set", recursive=True)
    tree = packed(tmp_path / "b", workers=2, root="s3://tiles/set/tree")
    same(tree, here)
    assert list(tree.paths) == list(here.paths)
    same(packed(tmp_path / "c", workers=2, root="s3://tiles/set/s-*.tar"), here)
    same(packed(tmp_path / "d", list="s3://tiles/set/list.csv"), here)
    before = rsssl.dataset("folder", root="s3://tiles/set/tree").listing()
    assert before == rsssl.dataset("folder", root="s3://tiles/set/tree").listing()
    bucket.pipe("tiles/set/tree/water/0000.png", (tmp_path / "up/tree/field/0000.png").read_bytes())
    fsspec.filesystem("s3").invalidate_cache()
    assert before != rsssl.dataset("folder", root="s3://tiles/set/tree").listing()
    bucket.mkdir("tiles/shards")
    bucket.put(str(tmp_path / "up" / "s-0.tar"), "tiles/shards/s-0.tar")
    assert len(rsssl.dataset("folder", root="s3://tiles/shards").catalog()) == 4  # a folder of archives alone
    content = (tmp_path / "up" / "s-0.tar").read_bytes()
    bucket.pipe("tiles/shards/s-0.tar", content[: len(content) // 2])
    fsspec.filesystem("s3").invalidate_cache()
    with pytest.raises(UserError, match=r"s3://tiles/shards/s-0\.tar is cut short"):
        rsssl.dataset("folder", root="s3://tiles/shards").catalog()
    with pytest.raises(UserError, match=r"s3://nowhere/x is not there"):
        rsssl.dataset("folder", root="s3://nowhere/x").catalog()


def test_memory_is_an_address_too(published: Callable[[Path], Path], tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    here = packed(tmp_path / "a", root=str(published(tmp_path / "up")))
    files.put(str(tmp_path / "up" / "tree"), "/bucket/tree", recursive=True)
    tree = packed(tmp_path / "b", root="memory://bucket/tree")
    same(tree, here)
    assert np.array_equal(tree.images, here.images)


def test_what_is_no_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nonsense://x"):
        packed(tmp_path / "p", root="nonsense://x")
