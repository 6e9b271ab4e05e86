"""Tiles read in threads: the bytes that lie there, in the place that was asked for; what fails is named."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rsssl.data import pread, reads
from rsssl.data.reads import read_rows

SIZE = 24


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Three files of different lengths: a descriptor and the content, (tiles, SIZE)."""
    opened = []
    for i, tiles in enumerate((50, 7, 200)):
        content = np.random.default_rng(i).integers(0, 256, (tiles, SIZE), np.uint8)
        (tmp_path / f"{i}.bin").write_bytes(content.tobytes())
        opened.append((os.open(tmp_path / f"{i}.bin", os.O_RDONLY), content))
    yield opened
    for fd, _ in opened:
        os.close(fd)


def drawn(files: list[tuple[int, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n rows anywhere, some of them twice: descriptors, numbers, content."""
    random = np.random.default_rng(n)
    which = random.integers(0, len(files), n)
    rows = np.array([random.integers(0, len(files[k][1])) for k in which], np.int64)
    content = np.array([files[k][1][row] for k, row in zip(which, rows, strict=True)], np.uint8).reshape(n, SIZE)
    return np.array([files[k][0] for k in which], np.int64), rows, content


@pytest.mark.parametrize("n", [0, 1, 5, 300])
@pytest.mark.parametrize("loop", [pread.fill, reads.fill_in_python])
def test_each_tile_comes_to_its_place(
    files: list[tuple[int, np.ndarray]], n: int, loop: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_loop", lambda: loop)
    fds, rows, content = drawn(files, n)
    out = np.zeros((n, 2, 3, 2), np.int16)  # 12 numbers of two bytes
    read_rows(fds, rows, SIZE, out)
    assert out.tobytes() == content.tobytes()


def test_no_byte_beside_the_batch_is_written(files: list[tuple[int, np.ndarray]]) -> None:
    fds, rows, content = drawn(files, 100)
    room = np.full((102, SIZE), 7, np.uint8)
    read_rows(fds, rows, SIZE, room[1:101])
    assert np.array_equal(room[1:101], content) and (room[[0, 101]] == 7).all()


@pytest.mark.parametrize("loop", [pread.fill, reads.fill_in_python])
@pytest.mark.parametrize("n", [4, 100])
def test_a_file_that_became_shorter_is_named(
    files: list[tuple[int, np.ndarray]],
    loop: Callable[..., int],
    n: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reads, "_loop", lambda: loop)
    fds, rows, _ = drawn(files, n)
    fds[n // 2], rows[n // 2] = files[1][0], 6
    os.truncate(tmp_path / "1.bin", 7 * SIZE - 3)
    with pytest.raises(OSError, match=r"shorter.*1\.bin") as caught:
        read_rows(fds, rows, SIZE, np.empty((n, SIZE), np.uint8))
    assert caught.value.errno == errno.EIO


def test_what_the_system_says_is_said(files: list[tuple[int, np.ndarray]], tmp_path: Path) -> None:
    fds, rows, _ = drawn(files, 60)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fds[30] = folder
        with pytest.raises(IsADirectoryError, match=tmp_path.name):
            read_rows(fds, rows, SIZE, np.empty((60, SIZE), np.uint8))
    finally:
        os.close(folder)


def test_interrupted_reads_go_on(files: list[tuple[int, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that gives up after each third tile, and reads that bring a few bytes: as signals and slow disks do."""
    whole = os.preadv
    monkeypatch.setattr(reads.os, "preadv", lambda fd, views, offset: whole(fd, [views[0][:5]], offset))
    monkeypatch.setattr(
        reads, "_loop", lambda: lambda files, rows, order, *rest: pread.fill(files, rows, order[:3], *rest)
    )
    fds, rows, content = drawn(files, 90)
    out = np.zeros((90, SIZE), np.uint8)
    read_rows(fds, rows, SIZE, out)
    assert np.array_equal(out, content)


def test_rows_go_to_the_places_that_are_named(files: list[tuple[int, np.ndarray]]) -> None:
    room, places = np.full((60, SIZE), 7, np.uint8), np.random.default_rng(3).permutation(60)[:40]
    fd, content = files[2]
    read_rows(fd, np.arange(40), SIZE, room, places)
    assert np.array_equal(room[places], content[:40])
    assert (np.delete(room, places, axis=0) == 7).all()


def test_memory_of_another_form_is_refused(files: list[tuple[int, np.ndarray]]) -> None:
    fds, rows, _ = drawn(files, 4)
    for out in (np.empty((4, SIZE + 1), np.uint8), np.empty((3, SIZE), np.uint8), np.empty((4, 2 * SIZE))[:, ::2]):
        with pytest.raises(ValueError, match=r"no rows of 24 bytes|4 rows do not go into 3 places"):
            read_rows(fds, rows, SIZE, out)
    for places in ([0, 1, 2], [0, 1, 2, 4], [-1, 0, 1, 2]):
        with pytest.raises(ValueError, match="do not go into 4 places"):
            read_rows(fds, rows, SIZE, np.empty((4, SIZE), np.uint8), np.array(places))


def test_a_forked_process_reads_too(files: list[tuple[int, np.ndarray]]) -> None:
    fds, rows, content = drawn(files, 100)
    read_rows(fds, rows, SIZE, np.empty((100, SIZE), np.uint8))  # threads are there now, and not in the fork
    pid = os.fork()
    if pid == 0:
        out = np.empty((100, SIZE), np.uint8)
        read_rows(fds, rows, SIZE, out)
        os._exit(0 if np.array_equal(out, content) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
