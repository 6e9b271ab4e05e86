"""Packs in object storage: their pixels are read through blocks, all else lies in a folder of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.blocks import FETCHERS, Blocks
from rsssl.data.pack import CARD, Pack, again, opened
from rsssl.data.packs import KIND, PARTS, Packs, Parts
from rsssl.data.remote import Remote
from rsssl.data.remote_file import SUMS, RemoteFile, tiles_of_block
from rsssl.engine.files import atomic, write_atomic
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.records import parse_json, read_list, unsealed

PIXELS = "images.bin"
AT_ONCE = 32 << 20  # bytes of a file in a request


class InBlocks(Pack):
    """What one pack and many in object storage have in common.

    Args:
        folder: of their other files.
        card: as for `Pack`, and so are `meta` and `columns`.
        remote: where the pixels are.
        blocks: reads them.
    """

    remote = True

    def __init__(
        self,
        folder: Path,
        card: SensorCard,
        meta: Mapping[str, Any],
        columns: Mapping[str, Any],
        remote: Remote,
        blocks: Blocks,
    ) -> None:
        super().__init__(folder, card, meta, columns)
        self.address, self.blocks = remote, blocks

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = self._room(rows, out)
        files, which, inside = self._placed(np.asarray(rows))
        self.blocks.read(files, which, inside, out)
        return out

    def prefetch(self, rows: np.ndarray) -> None:
        files, which, inside = self._placed(rows)
        numbers = inside // tiles_of_block(self.image_bytes)
        wanted = dict.fromkeys(zip(which.tolist(), numbers.tolist(), strict=True))
        self.blocks.prefetch([(files[k], n) for k, n in wanted])

    def _placed(self, rows: np.ndarray) -> tuple[list[RemoteFile], np.ndarray, np.ndarray]:
        """The files that rows (n,) lie in; (n,) which of them each lies in; (n,) its number in there."""
        raise NotImplementedError


class RemotePack(InBlocks):
    """A pack whose `images.bin` is in object storage."""

    @cached_property
    def file(self) -> RemoteFile:
        """The pixels."""
        sums = np.fromfile(self.folder / SUMS, "<u4") if SUMS in self.checksums else None
        size = len(self) * self.image_bytes
        return RemoteFile(self.address, PIXELS, self.sha256, size, self.image_bytes, sums)

    @property
    def images(self) -> np.ndarray:
        raise TypeError("the pixels of a pack in object storage are no array: use read()")

    def _placed(self, rows: np.ndarray) -> tuple[list[RemoteFile], np.ndarray, np.ndarray]:
        return [self.file], np.zeros(len(rows), np.int64), rows


class RemotePacks(InBlocks, Packs):
    """A dataset in many packs whose pixels are in object storage."""

    @cached_property
    def parts(self) -> RemoteParts:
        return RemoteParts(self.folder, self._parts.listed, self.address, self.blocks)

    def _placed(self, rows: np.ndarray) -> tuple[list[RemoteFile], np.ndarray, np.ndarray]:
        numbers, which = np.unique(self.part_of(rows), return_inverse=True)
        return [self.parts[k].file for k in numbers.tolist()], which, rows - self.starts[numbers[which]]


class RemoteParts(Parts):
    """The parts of `RemotePacks`."""

    def __init__(self, folder: Path, listed: Sequence[Sequence[Any]], remote: Remote, blocks: Blocks) -> None:
        super().__init__(folder, listed)
        self._remote, self._blocks = remote, blocks

    def _open(self, name: str) -> Pack:
        folder = self.folder / name
        return RemotePack(folder, *opened(folder, {PIXELS}), Remote(f"{self._remote.url}/{name}"), self._blocks)


def open_remote(remote: Remote, folder: Path, blocks: Blocks) -> Pack:
    """Opens a pack, or a folder of them, whose small files were fetched.

    Args:
        remote: where its pixels are.
        folder: of its other files, see `fetch_columns`.
        blocks: reads the pixels.

    Raises:
        UserError: when the folder is damaged, or the cache too small.
    """
    card, meta, columns = opened(folder, {PIXELS})
    packed = (RemotePacks if meta.get("kind") == KIND else RemotePack)(folder, card, meta, columns, remote, blocks)
    blocks.check(packed.image_bytes)
    return packed


def card_of(remote: Remote) -> dict[str, Any]:
    """The content of a pack's card.json.

    Raises:
        UserError: when there is none, it is damaged, or of a pack of the first kind.
    """
    origin, advice = f"{remote.url}/{CARD}", "copy the pack there again"
    meta = parse_json(remote.read(CARD), origin, advice)
    if "paths" in meta:
        raise UserError(f"{remote.url} was packed by an earlier version, and cannot be read from there: pack it again")
    return unsealed(meta, origin, advice)


def fetch_columns(remote: Remote, folder: Path) -> None:
    """Fetches all files of a pack, or of a folder of packs, but their pixels; the card comes last.

    Args:
        remote: the pack.
        folder: for the files, which are compared with their checksums.

    Raises:
        UserError: when a file cannot be read or is not what was packed, the pixels' too by their size.
    """
    meta = card_of(remote)
    for name, (size, digest) in meta["files"].items():
        if name != PIXELS:
            _fetch(remote, name, folder / name, size, digest)
        elif (length := remote.size(name)) != size:
            raise UserError(f"{remote.url}/{name} has {length} bytes, not {size}: copy the pack there again")
    if meta.get("kind") == KIND:
        names = [str(name) for name, *_ in read_list(folder / PARTS, again(folder))]
        parts = [Remote(f"{remote.url}/{name}") for name in names]
        with ThreadPoolExecutor(FETCHERS) as threads:
            list(threads.map(fetch_columns, parts, [folder / name for name in names]))
    write_atomic(folder / CARD, remote.read(CARD))


class Spoilt(Exception):
    """Other bytes than were packed."""


def _fetch(remote: Remote, name: str, target: Path, size: int, digest: str) -> None:
    """Fetches a file, some megabytes at a time; once more when it was spoilt on its way."""
    for _ in range(2):
        with suppress(Spoilt), atomic(target) as file:
            found = hashlib.sha256()
            for start in range(0, size, AT_ONCE):
                data = remote.read(name, start, min(size, start + AT_ONCE))
                found.update(data)
                file.write(data)
            if found.hexdigest() != digest:
                raise Spoilt
            return
    raise UserError(f"{remote.url}/{name} is not what was packed: its checksum differs. Copy the pack there again")
