"""A file of tiles in object storage, as blocks of some MB with a checksum each."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from rsssl.data.remote import Remote
from rsssl.engine.cores import cores

BLOCK = 3 << 20  # bytes of a block, about
MOST = 1024  # tiles of a block
SUMS = "blocks.bin"  # of a pack: the checksums of its blocks


def tiles_of_block(tile: int) -> int:
    """Tiles of so many bytes in a block. It follows from the data alone, as the order of a training does from it."""
    return max(1, min(MOST, BLOCK // tile))


def checksums(path: Path, tile: int) -> np.ndarray:
    """The CRC-32 of each block of a file of tiles.

    Args:
        path: of the file.
        tile: bytes of a tile.

    Returns:
        (blocks,) uint32.
    """
    length = tiles_of_block(tile) * tile

    def checksum(start: int) -> int:
        with open(path, "rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(length))

    with ThreadPoolExecutor(cores()) as threads:
        return np.array(list(threads.map(checksum, range(0, path.stat().st_size, length))), np.uint32)


@dataclass(frozen=True)
class RemoteFile:
    """A file of tiles in object storage.

    Args:
        remote: its folder.
        name: in it.
        identity: of the content, hexadecimal: blocks are kept under it.
        size: bytes.
        tile: bytes of a tile.
        sums: (blocks,) uint32, see `checksums`; None where they are not known: then only lengths are compared.
    """

    remote: Remote
    name: str
    identity: str
    size: int
    tile: int
    sums: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def block(self) -> int:
        """Bytes of a block; the last one may be shorter."""
        return tiles_of_block(self.tile) * self.tile

    def length(self, number: int) -> int:
        """Bytes of a block."""
        return min(self.block, self.size - number * self.block)

    def fetch(self, number: int, patient: bool = True) -> bytes:
        """A block from the storage.

        Args:
            number: of the block.
            patient: try again what fails.

        Raises:
            UserError: when it does not come as it was packed.
        """
        start = number * self.block
        check = partial(self._compare, number)
        return self.remote.read(self.name, start, start + self.length(number), check, patient)

    def _compare(self, number: int, data: bytes) -> None:
        if self.sums is not None and zlib.crc32(data) != self.sums[number]:
            raise OSError(f"block {number} is not what was packed: its checksum differs")
