"""How images are read, by any process: files of a folder, members of tar archives. Windows: scene_windows.py.

A reader is given items, which say all about an image that it does not know itself, so that a process that decodes a
hundred images knows the names of these hundred only. Readers and items travel as JSON.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rsssl.data import cloud
from rsssl.data.decoders import BadImage
from rsssl.data.geotiff import MOST
from rsssl.data.handles import Descriptor, Handle
from rsssl.data.raster import Raster, read
from rsssl.data.remote import is_remote
from rsssl.errors import UserError

TOGETHER = 64  # files that are asked for at the same time
RUN = 16 << 20  # bytes of neighbours in an archive that are read at once
OPEN = 1024  # archives that a process remembers


class Reader(Protocol):
    """Reads the images of one catalog."""

    def rasters(self, items: Sequence[Any], bands: int | None) -> Iterator[Raster | BadImage]:
        """What each item holds, or why it cannot be used; `bands` as for `rsssl.data.raster.read`.

        Raises:
            UserError: when none can be read now, as where a server is out of reach.
        """


def attempt(path: str, bands: int | None, content: bytes | None = None) -> Raster | BadImage:
    """`raster.read`, with what it may raise of one image given back."""
    try:
        return read(path, bands, content)
    except BadImage as error:
        return error


@dataclass(frozen=True)
class Files:
    """Reads files by their paths relative to `root`, a folder or an address."""

    root: str

    def rasters(self, items: Sequence[str], bands: int | None) -> Iterator[Raster | BadImage]:
        if not is_remote(self.root):
            for path in items:
                yield attempt(os.path.join(self.root, path), bands)
            return
        for first in range(0, len(items), TOGETHER):
            names = [cloud.join(self.root, path) for path in items[first : first + TOGETHER]]
            for name, content in zip(names, cloud.fetch([(name, None, None) for name in names]), strict=True):
                if isinstance(content, bytes):
                    yield attempt(name, bands, content)
                else:
                    yield BadImage(name, "there is no such file")


@dataclass(frozen=True)
class Members:
    """Reads members of uncompressed tar archives where they lie.

    An item is (number of the archive, first byte of the member's content, bytes, path).

    Args:
        shards: the archives: files, or addresses.
    """

    shards: tuple[str, ...]

    def rasters(self, items: Sequence[Any], bands: int | None) -> Iterator[Raster | BadImage]:
        for run in runs(items):
            shard, start, size, path = run[0]
            if size > 2 * MOST:
                yield BadImage(path, f"it has {size / 1e6:,.0f} MB, more than a tile")
                continue
            content = memoryview(part_of(self.shards[shard], start, run[-1][1] + run[-1][2]))
            for _, offset, size, path in run:
                yield attempt(path, bands, bytes(content[offset - start : offset - start + size]))


def runs(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Items that follow each other in one archive, so many that RUN bytes or a single one are read at once."""
    run: list[Any] = []
    for item in items:
        shard, offset, size = item[:3]
        if run and (shard != run[0][0] or not run[-1][1] <= offset <= run[0][1] + RUN - size):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def part_of(shard: str, start: int, stop: int) -> bytes:
    """Bytes of an archive.

    Raises:
        OSError, UserError: when it has become shorter, or cannot be read.
    """
    if is_remote(shard):
        return cloud.whole(shard, start, stop)
    file, content, at = archive(shard)(), bytearray(), start
    while at < stop:
        if not (data := os.pread(file.number, stop - at, at)):
            raise UserError(f"{shard} ends after {at} of {stop} bytes, and was longer: type the same command again")
        content += data
        at += len(data)
    return bytes(content)


@functools.lru_cache(maxsize=OPEN)
def archive(path: str) -> Handle[Descriptor]:
    """An archive, which stays open as long as few others are read."""
    return Handle(partial(Descriptor, path))


atexit.register(archive.cache_clear)  # while there still is something to close files with
