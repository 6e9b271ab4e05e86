"""Tiles of files in object storage, read through blocks that are kept on this machine's disk (block_cache.py).

Where the disk is full or must not be written to, blocks stay in memory, as many as a process keeps open.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from rsssl.data.block_cache import FULL, SOMETIMES, BlockCache
from rsssl.data.order import GROUP
from rsssl.data.reads import read_rows
from rsssl.data.remote_file import RemoteFile, tiles_of_block
from rsssl.engine.files import NO_SPACE, NOT_ALLOWED
from rsssl.errors import UserError
from rsssl.threads import lasting

log = logging.getLogger(__name__)

OPEN = 2 * GROUP  # blocks that a process keeps open: those of two groups
FETCHERS = 8  # requests in flight
_fetchers = lasting(FETCHERS, "blocks")
Block = tuple[RemoteFile, int]  # a file, and the number of one of its blocks


class Blocks:
    """Reads tiles of remote files, and keeps the blocks that they lie in.

    Args:
        folder: of the cache.
        limit: bytes that the cache may take.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.cache = BlockCache(folder, limit)
        self.fetched = 0  # bytes, by this process
        self._open: OrderedDict[tuple[str, int], int] = OrderedDict()  # descriptors of blocks, the last used one last
        weakref.finalize(self, _close, self._open)
        self._reading, self._counting = threading.Lock(), threading.Lock()
        self._in_memory = False  # the disk does not take blocks, and that was said

    def check(self, tile: int) -> None:
        """Refuses a cache that two groups of blocks, the one in use and the next one, do not fit into.

        Args:
            tile: bytes of a tile.

        Raises:
            UserError: with the size to type.
        """
        needed = OPEN * tiles_of_block(tile) * tile / (FULL - 1 / SOMETIMES)
        if self.cache.limit < needed:
            raise UserError(
                f"paths.cache_gb={self.cache.limit / 1e9:g} is too small for the blocks that a training mixes: type "
                f"paths.cache_gb={np.ceil(needed / 1e8) / 10:g} or more"
            )

    def read(self, files: Sequence[RemoteFile], which: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        """Reads n tiles of one size.

        Args:
            files: where they lie.
            which: (n,) numbers of files.
            rows: (n,) numbers of tiles in them.
            out: (n, ...) C-contiguous: tile i goes to out[i].

        Raises:
            UserError: when a block cannot be fetched.
        """
        if len(rows) == 0:
            return
        tile = files[0].tile
        numbers, within = np.divmod(rows, tiles_of_block(tile))
        blocks, block_of = np.unique(np.stack([which, numbers]), axis=1, return_inverse=True)
        block_of = block_of.reshape(-1)
        for first in range(0, blocks.shape[1], OPEN):
            places = np.flatnonzero((block_of >= first) & (block_of < first + OPEN))
            with self._reading:  # nothing is closed while it is read
                fds = self._descriptors([(files[f], int(n)) for f, n in blocks[:, first : first + OPEN].T])
                read_rows(np.array(fds)[block_of[places] - first], within[places], tile, out, places)

    def prefetch(self, wanted: Sequence[Block]) -> None:
        """Fetches blocks in the background, unless they are here; what fails is left to `read`, which says it."""
        waiting: SimpleQueue[Block] = SimpleQueue()
        for block in wanted:
            waiting.put(block)
        for _ in range(min(FETCHERS, len(wanted))):  # daemons: the end of the program does not wait for them
            threading.Thread(target=self._work, args=(waiting,), daemon=True, name="blocks").start()

    def _work(self, waiting: SimpleQueue[Block]) -> None:
        with suppress(Empty, UserError, OSError):
            while not self._in_memory:
                block = waiting.get_nowait()
                if not self.cache.has(*block):
                    with self.cache.lock(*block):
                        if not self.cache.has(*block):  # another process may just have fetched it
                            os.close(self.cache.keep(*block, self._fetch(*block, patient=False)))

    def _descriptors(self, wanted: Sequence[Block]) -> list[int]:
        """Open files, one a block; what is not here is fetched, several at a time."""
        keys = [(file.identity, number) for file, number in wanted]
        for key in keys:
            if key in self._open:
                self._open.move_to_end(key)
        missing = {key: block for key, block in zip(keys, wanted, strict=True) if key not in self._open}
        while self._open and len(self._open) + len(missing) > OPEN:
            os.close(self._open.popitem(last=False)[1])
        arriving = {key: _fetchers().submit(self._opened, *block) for key, block in missing.items()}
        errors = []
        for key, fd in arriving.items():
            try:
                self._open[key] = fd.result()
            except Exception as error:  # the other descriptors are kept all the same
                errors.append(error)
                for other in arriving.values():  # each would ask for a minute, too
                    other.cancel()
        if errors:
            raise errors[0]
        return [self._open[key] for key in keys]

    def _opened(self, file: RemoteFile, number: int) -> int:
        """A descriptor of a block that was compared with its checksum."""
        if (fd := self.cache.open(file, number)) is not None:
            return fd
        with self._turn(file, number):
            if (fd := self.cache.open(file, number)) is not None:
                return fd  # another process has just fetched it
            data = self._fetch(file, number)
            try:
                return _memory(data) if self._in_memory else self.cache.keep(file, number, data)
            except OSError as error:
                self._leave(error)
                return _memory(data)

    def _turn(self, file: RemoteFile, number: int) -> AbstractContextManager[Any]:
        """The lock of a block, where the disk takes one."""
        try:
            return nullcontext() if self._in_memory else self.cache.lock(file, number).acquire()
        except OSError as error:
            self._leave(error)
            return nullcontext()

    def _fetch(self, file: RemoteFile, number: int, patient: bool = True) -> bytes:
        data = file.fetch(number, patient)
        with self._counting:
            self.fetched += len(data)
        return data

    def _leave(self, error: OSError) -> None:
        """Leaves a disk that takes no blocks, and says it once; any other error is raised."""
        if error.errno not in (*NO_SPACE, *NOT_ALLOWED):
            raise error
        with self._counting:
            first, self._in_memory = not self._in_memory, True
        if first:
            log.warning(
                "the cache %s takes no more blocks (%s): they go into memory, and are fetched anew in each epoch; free "
                "some space, or type paths.cache=DIR on another disk",
                self.cache.folder,
                error.strerror,
            )


def _close(descriptors: dict[tuple[str, int], int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _memory(data: bytes) -> int:
    """A descriptor of a file that lies in memory and vanishes with it."""
    if not hasattr(os, "memfd_create"):
        raise UserError("the cache of blocks cannot be written: type paths.cache=DIR on another disk")
    fd, view = os.memfd_create("block"), memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd
