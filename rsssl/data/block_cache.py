"""Blocks of remote files on this machine's disk, shared by its processes, a bounded number of bytes.

    <cache>/<identity of the file>/<number of the block>    its bytes, and at the end their CRC-32

A block appears under its name when it is whole; its checksum is compared by every process that opens it. The blocks
that were not opened for longest are removed first.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from rsssl.data.remote_file import RemoteFile

log = logging.getLogger(__name__)

FULL = 7 / 8  # of the limit is left when room is made
SOMETIMES = 128  # room is looked for each time that 1 / 128 of the limit was written: other processes write too
ABANDONED = 3600.0  # seconds after which a file that was never finished is removed
TAIL = 8  # bytes behind a block: "RSB1" and its CRC-32
LOCKS = 64  # files; blocks share them


class BlockCache:
    """See above.

    Args:
        folder: of the blocks.
        limit: bytes that they may take.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._written = limit  # since room was looked for
        self._counting = threading.Lock()

    def has(self, file: RemoteFile, number: int) -> bool:
        """Whether a block is here; it was not compared with its checksum."""
        return self._path(file, number).exists()

    def open(self, file: RemoteFile, number: int) -> int | None:
        """A descriptor of a block that is here and whole, else None; what is not whole is removed."""
        path, length = self._path(file, number), file.length(number)
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(fd, length + TAIL + 1, 0)
        except OSError:
            data = b""
        crc = zlib.crc32(memoryview(data)[:length])
        if data[length:] == _tail(crc) and (file.sums is None or crc == file.sums[number]):
            with suppress(OSError):  # a cache may be for reading only
                os.utime(path)
            return fd
        os.close(fd)
        log.warning("%s is not what was written, and fetched again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def lock(self, file: RemoteFile, number: int) -> FileLock:
        """Held by the one who fetches a block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = zlib.crc32(f"{file.identity} {number}".encode()) % LOCKS
        return FileLock(self.folder / f".lock-{name:02d}", poll_interval=0.01)

    def keep(self, file: RemoteFile, number: int, data: bytes) -> int:
        """Writes a block, and opens it.

        Raises:
            OSError: when the disk does not take it.
        """
        path = self._path(file, number)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._make_room(len(data) + TAIL)
        try:
            with open(temporary, "wb") as out:  # not synced: what a power cut leaves has another checksum
                out.write(data)
                out.write(_tail(zlib.crc32(data)))
            fd = os.open(temporary, os.O_RDONLY)
            os.replace(temporary, path)
            return fd
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _path(self, file: RemoteFile, number: int) -> Path:
        return self.folder / file.identity[:16] / f"{number:08d}"

    def _make_room(self, size: int) -> None:
        """Removes the blocks that were not opened for longest, when there may be too many."""
        with self._counting:
            self._written += size
            if self._written * SOMETIMES < self.limit:
                return
            self._written = 0
            with FileLock(self.folder / ".lock-room"):
                self._remove_oldest(size)

    def _remove_oldest(self, size: int) -> None:
        files = sorted(_files(self.folder), key=lambda item: item[1])
        total = sum(length for _, _, length in files) + size
        for path, changed, length in files:
            unfinished = path.name.startswith(".")
            if time.time() - changed > ABANDONED if unfinished else total > FULL * self.limit:
                path.unlink(missing_ok=True)
                total -= length


def _files(folder: Path) -> list[tuple[Path, float, int]]:
    """Blocks with the time of their last use and their bytes."""
    files = []
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process has just removed it
            status = path.stat()
            files.append((path, status.st_mtime, status.st_size))
    return files


def _tail(crc: int) -> bytes:
    return b"RSB1" + crc.to_bytes(TAIL - 4, "little")
