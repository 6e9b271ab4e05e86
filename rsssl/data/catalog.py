"""The images of one dataset: which they are, how they are read, and whether they have changed since.

Where they come from: folders (scan.py), lists of files (lists.py), tar archives (shards.py), scenes (scene_windows.py).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from rsssl.data import cloud
from rsssl.data.decoders import PICTURES, RASTERS, BadImage
from rsssl.data.names import Names
from rsssl.data.raster import Raster
from rsssl.data.readers import Reader
from rsssl.data.remote import is_remote
from rsssl.engine.files import sha256
from rsssl.errors import UserError

Kind = TypeVar("Kind", bound="Catalog")
EXTENSIONS = PICTURES | RASTERS.keys()
MISSING = -1  # in place of the size of a file that is not there


class Source(Protocol):
    """Where images come from, of which little is known at first: listing all of them may take long."""

    @property
    def root(self) -> str:
        """The folder or address that names of images are below."""

    def listing(self) -> str:
        """A hash that changes with the images; see `Catalog.listing`."""

    def catalog(self, index: Path | None = None) -> Catalog:
        """The images.

        Args:
            index: a folder for what it takes long to find out, where other processes find it; None to keep nothing.

        Raises:
            UserError: naming what cannot be read.
        """


@dataclass(frozen=True)
class Catalog:
    """N images. Those that are files of their own stand in the order of the bytes of their paths.

    Args:
        root: the folder, or its address.
        paths: POSIX paths relative to it.
        labels: int64 (N,), numbers of classes, -1 for an unlabelled image.
        classes: their names.
        reader: reads them.
        places: int64 (N, 3), where an image lies, for a reader that does not know it by its path.
        origin: a hash of what the labels follow from, other than the paths.
        given: int64 (N, 2), bytes and time of change of each file, where they came with the names; None to look.
    """

    root: str
    paths: Names
    labels: np.ndarray
    classes: tuple[str, ...]
    reader: Reader
    places: np.ndarray | None = None
    origin: str = ""
    given: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def catalog(self, index: Path | None = None) -> Catalog:
        """This one: a catalog is its own source."""
        return self

    def name(self, i: int) -> str:
        """Image number i, for messages."""
        return name_of(self.root, self.paths[i])

    def items(self, rows: Sequence[int]) -> list[Any]:
        """What the reader needs to know of some images."""
        chosen = np.asarray(rows)
        paths = self.paths.select(chosen)
        if self.places is None:
            return paths
        return [(*place, path) for place, path in zip(self.places[chosen].tolist(), paths, strict=True)]

    def rasters(self, rows: Sequence[int], bands: int | None = None) -> Iterator[Raster | BadImage]:
        """Some images as their files hold them, or why one cannot be used; see `rsssl.data.raster.read`."""
        return self.reader.rasters(self.items(rows), bands)

    def part(self: Kind, start: int, stop: int) -> Kind:
        """Images start..stop alone."""
        places = None if self.places is None else self.places[start:stop]
        given = self.states[start:stop] if self.places is None else None
        paths, labels = self.paths.part(start, stop), self.labels[start:stop]
        return replace(self, paths=paths, labels=labels, places=places, given=given)

    def listing(self) -> str:
        """sha256 over every file's path, size and modification time, as they were when first asked for.

        When it changes, the source was changed. Other content of the same size and time is not noticed: that would take
        reading all files, nearly as long as packing them.
        """
        return self._listing

    def changed(self) -> list[str]:
        """The paths of files that are not what they were when `listing` was first asked for."""
        if is_remote(self.root):
            return []  # each would have to be asked for once more
        now = _states(self.root, self.paths)
        return self.paths.select(np.flatnonzero((now != self.states).any(axis=1)))

    def refuse_changed(self) -> None:
        """Raises UserError for files that changed while they were packed: nobody knows which content was read."""
        if changed := self.changed():
            first = name_of(self.root, changed[0])
            more = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise UserError(f"{first}{more} changed while the images were packed: type the same command again")

    @functools.cached_property
    def _listing(self) -> str:
        return _digest(self.paths, self.states, self.origin)

    @functools.cached_property
    def states(self) -> np.ndarray:
        """int64 (N, 2): bytes and time of change of each file, when they were first asked for."""
        return _states(self.root, self.paths) if self.given is None else self.given


def name_of(root: str, path: str) -> str:
    """What lies below a folder or an address."""
    return cloud.join(root, path) if is_remote(root) else os.path.join(root, path)


def listing(root: str | os.PathLike[str], paths: Sequence[str]) -> str:
    """`Catalog.listing` of any paths, of which some may be missing.

    Args:
        root: the folder.
        paths: relative to it.
    """
    return _digest(paths, _states(os.fspath(root), paths))


def _digest(paths: Sequence[str], states: np.ndarray, origin: str = "") -> str:
    digest = hashlib.sha256()
    encoded = paths.encoded(np.arange(len(paths))) if isinstance(paths, Names) else map(os.fsencode, paths)
    for path, (size, time) in zip(encoded, states.tolist(), strict=True):
        state = b"\0missing\n" if size == MISSING else b"\0%d\0%d\n" % (size, time)
        digest.update(path + state)
    return sha256((digest.hexdigest() + origin).encode()) if origin else digest.hexdigest()


def _states(root: str, paths: Sequence[str]) -> np.ndarray:
    """int64 (N, 2): bytes and time of change of each file; MISSING where there is none."""
    if is_remote(root):
        return np.zeros((len(paths), 2), np.int64)  # not asked for
    return np.fromiter((_state(os.path.join(root, path)) for path in paths), np.dtype((np.int64, 2)), len(paths))


def _state(name: str) -> tuple[int, int]:
    try:
        stat = os.stat(name)
    except OSError:
        try:
            stat = os.lstat(name)  # a link that leads nowhere
        except OSError:
            return MISSING, 0
    return stat.st_size, stat.st_mtime_ns
