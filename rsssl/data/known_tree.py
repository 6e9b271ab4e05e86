"""Folders of very many images, once they are packed: not listed again at each start, only their folders are looked at.

The record lies in the store, beside the packs. A file that is added, removed, renamed or replaced by another one
changes the time of its folder. One that was written over in place does not: of smaller datasets that is noticed too, as
every file is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.data.catalog import Catalog
from rsssl.data.dataset import Dataset
from rsssl.engine.files import sha256, write_sealed
from rsssl.engine.ranks import rank
from rsssl.engine.store import Store, digest, is_finished
from rsssl.errors import UserError
from rsssl.records import Damaged, read_sealed

LARGE = 1 << 20  # images; the files of fewer are all looked at


class KnownTree:
    """A dataset that is packed, and whose folders have not changed since.

    Args:
        dataset: as it is configured.
        record: what was written of it.
    """

    def __init__(self, dataset: Dataset, record: Mapping[str, Any]) -> None:
        self.root, self._dataset, self._listing = str(record["root"]), dataset, str(record["listing"])

    def listing(self) -> str:
        """As `Catalog.listing` was when it was packed."""
        return self._listing

    def catalog(self, index: Path | None = None) -> Catalog:
        """The images, listed; UserError when they are others, or were written over."""
        catalog = self._dataset.catalog()
        if catalog.listing() != self._listing:
            raise UserError(f"images of {self.root} changed since they were packed: type the same command again")
        return catalog


def known_tree(dataset: Dataset, store: Store, settings: Mapping[str, Any]) -> KnownTree | None:
    """The dataset as it was packed; None where it has to be listed.

    Args:
        dataset: the images.
        store: of the packs.
        settings: what else their pack follows from.
    """
    if (file := record_file(dataset, store, settings)) is None:
        return None
    try:
        record = read_sealed(file, "")
    except Damaged:
        return None
    current = times([Path(folder) for folder in record["folders"]]) == record["times"]
    return KnownTree(dataset, record) if current and is_finished(Path(record["pack"])) else None


def remember(
    catalog: Catalog, dataset: Dataset, store: Store, settings: Mapping[str, Any], pack: Path, since: int
) -> None:
    """Records a large tree of images that is packed.

    Args:
        catalog: the images; those of a small one are looked at each time, and nothing is recorded.
        dataset: as it is configured.
        store: of the packs.
        settings: what else the pack follows from.
        pack: its folder.
        since: before the images were listed, in ns: when a folder has changed after that, nothing is recorded.
    """
    file, root = record_file(dataset, store, settings), dataset.located()
    if len(catalog) <= LARGE or rank() > 0 or type(catalog) is not Catalog or file is None or root is None:
        return
    folders = {Path(folder) for folder, *_ in os.walk(catalog.root)}
    folders |= {Path(catalog.root, folder) for folder in map(os.path.dirname, catalog.paths)}
    folders.add(root.resolve())
    if max(os.stat(folder).st_mtime_ns for folder in folders) >= since:
        return
    listed = sorted(map(str, folders))
    record = {"root": catalog.root, "listing": catalog.listing(), "pack": str(pack), "folders": listed}
    record["times"] = times([Path(folder) for folder in listed])
    write_sealed(file, record)


def record_file(dataset: Dataset, store: Store, settings: Mapping[str, Any]) -> Path | None:
    """Where the record lies; None where the images are in no folder of this machine."""
    if (folder := dataset.located()) is None:
        return None
    root = str(folder.resolve())
    return store.root / "pack" / f".{digest({'settings': settings, 'root': root})}.tree.json"


def times(folders: list[Path]) -> str:
    """A hash of the folders' times of change."""
    return sha256(repr([_time(folder) for folder in folders]).encode())


def _time(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1
