"""Packs in object storage: the right bytes whatever the network, the disk or another process does; else an error."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsssl.data import block_cache, blocks, remote
from rsssl.data.blocks import Blocks
from rsssl.data.remote import Remote
from rsssl.data.remote_file import RemoteFile, checksums, tiles_of_block
from rsssl.errors import UserError

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
TILE, TILES, LARGE = 48, 1000, 10_000_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of ten tiles, and no waiting."""
    monkeypatch.setattr("rsssl.data.remote_file.BLOCK", 10 * TILE)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def content(served: Any) -> np.ndarray:
    """(TILES, TILE), and the file of them on the served."""
    tiles = np.random.default_rng(0).integers(0, 256, (TILES - 3, TILE), np.uint8)  # the last block is shorter
    (served.folder / "images.bin").write_bytes(tiles.tobytes())
    return tiles


@pytest.fixture
def file(served: Any, content: np.ndarray) -> RemoteFile:
    sums = checksums(served.folder / "images.bin", TILE)
    return RemoteFile(Remote(served.url), "images.bin", "ab" * 32, content.nbytes, TILE, sums)


def read(cache: Blocks, file: RemoteFile, rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    out = np.zeros((len(rows), TILE), np.uint8)
    cache.read([file], np.zeros(len(rows), np.int64), rows, out)
    return out


def handles(folder: Path) -> list[str]:
    """Files of the cache, and such in memory, that this process has open."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [n for n in names if n.startswith((str(folder), "/memfd:block"))]


def kept(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*/*") if not p.name.startswith("."))


def test_tiles_come_from_few_requests_and_then_from_the_disk(
    tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray
) -> None:
    cache = Blocks(tmp_path / "cache", LARGE)
    rows = np.array([996, 3, 14, 15, 3, 500, 11])
    assert np.array_equal(read(cache, file, rows), content[rows])
    assert sorted(served.ranges) == [
        ("images.bin", 0, 480),
        ("images.bin", 480, 960),
        ("images.bin", 24_000, 24_480),
        ("images.bin", 47_520, 47_856),
    ]
    assert cache.fetched == 3 * 480 + 336
    del cache
    again = Blocks(tmp_path / "cache", LARGE)  # another process
    assert np.array_equal(read(again, file, rows), content[rows])
    assert len(served.ranges) == 4 and again.fetched == 0


def test_all_of_a_file_in_any_order_needs_few_open_files(
    tmp_path: Path, file: RemoteFile, content: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "OPEN", 7)
    cache, rows = Blocks(tmp_path / "cache", LARGE), np.random.default_rng(1).permutation(len(content))
    assert np.array_equal(read(cache, file, rows), content[rows])
    assert np.array_equal(read(cache, file, rows[:50]), content[rows[:50]])
    assert len(handles(tmp_path / "cache")) == 7
    del cache
    assert handles(tmp_path / "cache") == []


def test_tiles_of_several_files(tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray) -> None:
    other = np.random.default_rng(5).integers(0, 256, (30, TILE), np.uint8)
    (served.folder / "other.bin").write_bytes(other.tobytes())
    second = RemoteFile(Remote(served.url), "other.bin", "cd" * 32, other.nbytes, TILE)
    which, rows = np.array([1, 0, 1, 0]), np.array([29, 29, 0, 990])
    out = np.zeros((4, TILE), np.uint8)
    Blocks(tmp_path / "cache", LARGE).read([file, second], which, rows, out)
    assert np.array_equal(out, [other[29], content[29], other[0], content[990]])


@pytest.mark.parametrize("fault", ["503", "close", "truncate", "short", "wrong"])
def test_what_fails_is_asked_for_again(
    fault: str, tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    served.faults += [fault] * 3
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read(Blocks(tmp_path / "cache", LARGE), file, [44]), content[[44]])
    said = len([r for r in caplog.records if "once more" in r.getMessage()])
    assert said == 3 or (fault == "close" and said > 0)  # aiohttp itself tries a lost connection again
    assert len(served.ranges) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "503"),
        ("close", "look at the network"),
        ("truncate", "look at the network"),
        ("short", "473 of 480 bytes came"),
        ("wrong", "block 4 is not what was packed: its checksum differs"),
    ],
)
def test_what_fails_always_is_said_and_nothing_of_it_is_kept(
    fault: str, words: str, tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray
) -> None:
    cache = Blocks(tmp_path / "cache", LARGE)
    served.always = fault
    with pytest.raises(UserError, match=words) as caught:
        read(cache, file, [44, 45])
    assert f"{served.url}/images.bin" in str(caught.value) and "type the same command again" in str(caught.value)
    assert kept(tmp_path / "cache") == [] and cache.fetched == 0
    served.always = ""
    assert np.array_equal(read(cache, file, [44, 45]), content[[44, 45]])


def test_a_server_that_is_gone_is_said_before_each_block_was_asked_for(
    tmp_path: Path, served: Any, file: RemoteFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.05, 0.05))
    served.always = "503"
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="503"):
        read(Blocks(tmp_path / "cache", LARGE), file, np.arange(990))
    asked = len([r for r in caplog.records if "once more" in r.getMessage()])
    assert asked <= 2 * 3 * blocks.FETCHERS, "of 99 blocks, those that were on their way"


def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path: Path, served: Any, file: RemoteFile) -> None:
    (served.folder / "images.bin").unlink()
    with pytest.raises(UserError, match=r"images\.bin is not there: type the address of a finished pack"):
        read(Blocks(tmp_path / "cache", LARGE), file, [1])
    with pytest.raises(UserError, match="is not there"):
        Remote(served.url).size("images.bin")


def test_a_truncated_object_is_noticed(served: Any, file: RemoteFile, tmp_path: Path) -> None:
    with open(served.folder / "images.bin", "r+b") as opened:
        opened.truncate(file.size - 10)
    assert Remote(served.url).size("images.bin") == file.size - 10
    with pytest.raises(UserError, match="326 of 336 bytes came"):
        read(Blocks(tmp_path / "cache", LARGE), file, [996])


def test_names_and_protocols_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="type an address such as s3://bucket/folder"):
        Remote("nonsense://x").read("card.json")
    assert not remote.is_remote("/data/pack") and not remote.is_remote(None) and remote.is_remote("s3://b/p")


@pytest.mark.parametrize("damage", ["cut", "zeros", "flip", "empty", "longer"])
def test_a_block_on_the_disk_that_is_not_whole_is_fetched_again(
    damage: str, tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray
) -> None:
    for sums in (file.sums, None):  # also where nothing but the cache's own checksum is known
        cached = RemoteFile(file.remote, file.name, file.identity, file.size, file.tile, sums)
        read(Blocks(tmp_path / "cache", LARGE), cached, [44])
        (path,) = kept(tmp_path / "cache")
        data = path.read_bytes()
        assert len(data) == 480 + 8
        damaged = {
            "cut": data[:-100],
            "zeros": bytes(len(data)),
            "flip": data[:100] + bytes([data[100] ^ 8]) + data[101:],
            "empty": b"",
            "longer": data + b"x",
        }
        path.write_bytes(damaged[damage])
        before = len(served.ranges)
        assert np.array_equal(read(Blocks(tmp_path / "cache", LARGE), cached, [44]), content[[44]])
        assert len(served.ranges) == before + 1 and path.read_bytes() == data


def test_the_cache_stays_within_its_bytes_and_the_last_used_stay(
    tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray
) -> None:
    limit = 20 * (480 + 8)
    cache = Blocks(tmp_path / "cache", limit)
    for k in range(100):
        assert np.array_equal(read(cache, file, [10 * k % 997, 5]), content[[10 * k % 997, 5]])
        os.utime(tmp_path / "cache" / file.identity[:16] / "00000000", ns=(2**62, 2**62))  # used again and again
        assert sum(p.stat().st_size for p in kept(tmp_path / "cache")) <= limit
    names = [int(p.name) for p in kept(tmp_path / "cache")]
    assert len(names) >= 15 and names == [0, *range(101 - len(names), 100)]


def test_files_that_were_never_finished_are_removed(tmp_path: Path, file: RemoteFile) -> None:
    folder = tmp_path / "cache" / file.identity[:16]
    folder.mkdir(parents=True)
    for name, age in ((".00000001.aaaaaaaa", 2 * block_cache.ABANDONED), (".00000002.bbbbbbbb", 0.0)):
        (folder / name).write_bytes(b"half")
        then = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (then, then))
    read(Blocks(tmp_path / "cache", LARGE), file, [0])
    assert {p.name for p in folder.iterdir()} == {".00000002.bbbbbbbb", "00000000"}


def test_a_full_disk_is_done_without_and_said_once(
    tiny_disk: Path,
    file: RemoteFile,
    content: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Room for a few of the hundred blocks, each of which takes a page."""
    monkeypatch.setattr(blocks, "OPEN", 5)
    (tiny_disk / "ballast").write_bytes(bytes((3 << 20) - 15 * 4096))
    cache, rows = Blocks(tiny_disk / "cache", LARGE), np.random.default_rng(0).permutation(len(content))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.array_equal(read(cache, file, rows), content[rows])
    said = [r.getMessage() for r in caplog.records if "takes no more blocks" in r.getMessage()]
    assert len(said) == 1 and "type paths.cache=DIR" in said[0] and os.strerror(errno.ENOSPC) in said[0]
    assert 2 <= len(kept(tiny_disk / "cache")) <= 15 and len(handles(tiny_disk / "cache")) == 5
    del cache  # else the disk cannot be unmounted
    assert handles(tiny_disk / "cache") == []


def test_a_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, file: RemoteFile, content: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").write_text("")
    cache = Blocks(tmp_path / "a file" / "cache", LARGE)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read(cache, file, [7, 800]), content[[7, 800]])
    assert "Not a directory" in caplog.text


def test_blocks_fetched_ahead_are_not_fetched_again(
    tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray, until: Callable[..., None]
) -> None:
    cache = Blocks(tmp_path / "cache", LARGE)
    cache.prefetch([(file, k) for k in (3, 1, 99, 50)])
    until(lambda: len(kept(tmp_path / "cache")) == 4)
    rows = np.array([10, 35, 996, 505])
    assert np.array_equal(read(cache, file, rows), content[rows])
    assert len(served.ranges) == 4
    served.always = "503"
    cache.prefetch([(file, 7)])  # nobody hears of it
    until(lambda: not [t for t in threading.enumerate() if t.name == "blocks"])
    served.always = ""
    assert np.array_equal(read(cache, file, [70]), content[[70]])


def test_two_processes_fetch_each_block_once(
    tmp_path: Path, served: Any, file: RemoteFile, content: np.ndarray
) -> None:
    pids = []
    for seed in (1, 2):
        pid = os.fork()
        if pid == 0:
            rows = np.random.default_rng(seed).permutation(len(content))
            right = np.array_equal(read(Blocks(tmp_path / "cache", LARGE), file, rows), content[rows])
            os._exit(0 if right else 1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    starts = [start for _, start, _ in served.ranges]
    assert sorted(starts) == list(range(0, file.size, file.block))


def test_a_cache_too_small_for_two_groups_says_which_size_will_do(tmp_path: Path) -> None:
    needed = 128 * 480 / (7 / 8 - 1 / 128)
    with pytest.raises(UserError, match=r"paths\.cache_gb=7e-05 is too small.*type paths\.cache_gb=0\.1"):
        Blocks(tmp_path, 70_000).check(TILE)
    Blocks(tmp_path, int(needed) + 1).check(TILE)


def test_blocks_have_about_3_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsssl.data.remote_file.BLOCK", 3 << 20)
    assert [tiles_of_block(n) for n in (48, 12_288, 106_496, 3 << 20, 50 << 20)] == [1024, 256, 29, 1, 1]
