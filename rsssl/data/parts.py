"""A large dataset decoded into many packs side by side, by all processes that are told to: each takes what is free.

    folder/.packing.json       the form of all images and the tiles of a part, written by whoever came first
    folder/.part-00003.lock    held by the process that packs this part; the system takes it from one that has died
    folder/part-00003/         a part: packed, resumed and finished as a pack of its own (packing.py)

When every part is there, one process makes them one dataset (packs.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rsssl.data.catalog import Catalog
from rsssl.data.chunks import CHUNK_BYTES, form_of
from rsssl.data.conform import Form
from rsssl.data.dataset import Dataset
from rsssl.data.find_form import find_form
from rsssl.data.pack import Pack
from rsssl.data.packing import PIXELS, pack, source_of
from rsssl.data.packs import Packs, join, open_packed
from rsssl.engine.files import locked, write_sealed
from rsssl.engine.ranks import alone
from rsssl.errors import UserError
from rsssl.records import read_sealed

log = logging.getLogger(__name__)
BEGUN, BEGUN_LOCK = ".packing.json", ".packing.lock"
POLL = 0.5  # seconds between two looks at what other processes do


@dataclass(frozen=True)
class Begun:
    """What all processes that pack a dataset agree on.

    Args:
        form: of all images.
        tiles: of a part.
        source: a hash of what is packed.
    """

    form: Form
    tiles: int
    source: str


def pack_parts(
    dataset: Dataset,
    folder: Path,
    tiles: int | None,
    workers: int | None = None,
    progress: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
    catalog: Catalog | None = None,
) -> Packs:
    """Decodes a dataset into parts, together with all processes that do so in the same folder, and opens it.

    Every process may call it, and at any time. It ends when all parts are there.

    Args:
        dataset: the images.
        folder: for the parts.
        tiles: images of a part; where the packing has begun already, it goes on with the number that it began with.
            None: all.
        workers: see `rsssl.data.packing.pack`, as for those that follow.
        progress: show how far it is.
        chunk_bytes: of the pixels that a process decodes at a time.
        catalog: the dataset's, where it is known.

    Raises:
        UserError: as `pack` does, and when the folder holds parts of other images.
    """
    catalog = dataset.catalog() if catalog is None else catalog
    begun = begin(dataset, folder, tiles, catalog)
    starts = range(0, len(catalog), begun.tiles)

    def pack_one(number: int, start: int) -> None:
        title = f"packing {dataset.name}, part {number + 1} of {len(starts)}"
        part = catalog.part(start, min(start + begun.tiles, len(catalog)))
        pack(dataset, folder / name_of(number), workers, progress and title, chunk_bytes, part, begun.form)

    left, said = list(enumerate(starts)), False
    if not all(is_packed(folder / name_of(number)) for number, _ in left):
        log.info(f"packing {len(catalog):,} images of {catalog.root} in {len(left)} parts of {begun.tiles:,}: {folder}")
    with alone():  # under torchrun each rank takes parts of its own
        while left := [(number, start) for number, start in left if not is_packed(folder / name_of(number))]:
            if any(taken(folder, number, start, pack_one) for number, start in left):
                continue
            if not said:
                log.info("%s: the %d parts that are left are in the hands of other processes", dataset.name, len(left))
            said = True
            time.sleep(POLL)
    return joined(folder, len(starts), begun, catalog.root)


def begin(dataset: Dataset, folder: Path, tiles: int | None, catalog: Catalog) -> Begun:
    """What the packing in a folder has begun with: decided now by the first process, and written down for all.

    Raises:
        UserError: when the folder holds parts of other images.
    """
    file, source = folder / BEGUN, source_of(dataset, catalog)
    again = f"remove it to have them packed again: rm -r '{folder}'"
    with locked(folder / BEGUN_LOCK, waiting=f"{dataset.name}: another process looks at the images first; waiting"):
        if not file.is_file():
            form = find_form(dataset, catalog)
            write_sealed(file, {"source": source, "tiles": tiles or len(catalog), "form": asdict(form)})
        known = read_sealed(file, again)
    if known["source"] != source:
        raise UserError(f"{folder} holds parts of other images, or of these before they changed: {again}")
    return Begun(form_of(known["form"]), known["tiles"], source)


def taken(folder: Path, number: int, start: int, pack_one: Callable[[int, int], None]) -> bool:
    """Packs a part, unless another process does, or has done; whether it was packed now."""
    handle = FileLock(folder / f".{name_of(number)}.lock")
    try:
        handle.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if is_packed(folder / name_of(number)):
            return False
        pack_one(number, start)
        return True
    finally:
        handle.release()


def name_of(number: int) -> str:
    """The name of a part."""
    return f"part-{number:05d}"


def is_parted(folder: Path, n: int, tiles: int | None) -> bool:
    """Whether n images become parts of so many: as they were begun with, else by their number."""
    if (folder / BEGUN).is_file() or (folder / PIXELS).is_file():
        return (folder / BEGUN).is_file()
    return tiles is not None and n > tiles


def is_packed(folder: Path) -> bool:
    """Whether a part is finished, and not damaged as far as one sees at once."""
    try:
        Pack.open(folder)
    except (OSError, UserError):
        return False
    return True


def joined(folder: Path, n: int, begun: Begun, root: str) -> Packs:
    """The n parts as one dataset; by the first process that comes here, when all of them are there."""
    with locked(folder / BEGUN_LOCK):
        try:
            whole = open_packed(folder)
        except (OSError, UserError):
            whole = None
        if not (isinstance(whole, Packs) and whole.source == begun.source and len(whole.parts) == n):
            whole = join(folder, begun.source, root)
    for lock in folder.glob(".part-*.lock"):
        lock.unlink(missing_ok=True)
    return whole
