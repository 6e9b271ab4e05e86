"""Folders and the images in them: of this machine, or below an address that can be listed."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from rsssl.data import cloud
from rsssl.data.catalog import EXTENSIONS
from rsssl.data.decoders import POINTERS
from rsssl.engine.files import sha256


class Tree(Protocol):
    """What is asked of a tree of folders; a folder is known by its path."""

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in one, sorted."""

    def loose(self, folder: str) -> int:
        """How many images lie in a folder itself."""

    def images(self, folder: str, root: str) -> Iterator[str]:
        """POSIX paths, relative to `folder`, of the images in it and below, in the order of their bytes; none where a
        link led back to where `root` lies in."""


class Here:
    """The folders of this machine."""

    def folders(self, folder: str) -> list[str]:
        return sorted((e.name for e in os.scandir(folder) if is_folder(e)), key=os.fsencode)

    def loose(self, folder: str) -> int:
        return sum(map(_is_image, os.scandir(folder)))

    def images(self, folder: str, root: str) -> Iterator[str]:
        return _images(folder, frozenset() if folder == root else _lineage(root))


def _images(folder: str, above: frozenset[Path]) -> Iterator[str]:
    """The images in a folder and below; none where it is one of those `above`, to which a link led back."""
    if Path(folder).resolve() in above:
        return
    above |= _lineage(folder)
    inside = list[tuple[bytes, os.DirEntry[str], bool]]()
    for entry in os.scandir(folder):
        if _is_image(entry):
            inside.append((os.fsencode(entry.name), entry, False))
        elif is_folder(entry):
            inside.append((os.fsencode(entry.name) + b"/", entry, True))
    for _, entry, nested in sorted(inside, key=lambda one: one[0]):
        if nested:
            yield from (f"{entry.name}/{path}" for path in _images(entry.path, above))
        else:
            yield entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder in which images are looked for."""
    try:
        return entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is named like an image. A link that leads nowhere is one, and a pipe, and what only names other files:
    reading it gives an error that names it.
    """
    if not image_name(entry.name):
        return False
    try:
        return not entry.is_dir()
    except OSError:
        return True


def image_name(name: str) -> bool:
    """Whether a file is named like an image."""
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and (suffix in EXTENSIONS or suffix in POINTERS)


def _lineage(folder: str) -> frozenset[Path]:
    """A folder and those that it lies in, without links."""
    real = Path(folder).resolve()
    return frozenset((real, *real.parents))


class Elsewhere:
    """The folders below an address, listed once.

    Args:
        root: the address.

    Attributes:
        states: of each image by its path, (bytes, a number that changes when it does).
    """

    def __init__(self, root: str) -> None:
        start = cloud.opened(root)[1].rstrip("/") + "/"
        self.root, self.states = root, dict[str, tuple[int, int]]()
        self._folders, self._loose = dict[str, set[str]](), dict[str, int]()
        for name, info in cloud.asked(cloud.address(root), "find").items():
            path = name[len(start) :]
            parts = path.split("/")
            if not name.startswith(start) or not image_name(parts[-1]) or any(hidden(part) for part in parts):
                continue
            size, mark = cloud.state(info)
            self.states[path] = size, int(sha256(mark.encode())[:15], 16)
            for depth, part in enumerate(parts[:-1]):
                self._folders.setdefault("/".join(parts[:depth]), set()).add(part)
            folder = "/".join(parts[:-1])
            self._loose[folder] = self._loose.get(folder, 0) + 1

    def _inside(self, folder: str) -> str:
        return folder[len(self.root) :].strip("/")

    def folders(self, folder: str) -> list[str]:
        return sorted(self._folders.get(self._inside(folder), ()), key=os.fsencode)

    def loose(self, folder: str) -> int:
        return self._loose.get(self._inside(folder), 0)

    def images(self, folder: str, root: str) -> Iterator[str]:
        start = self._inside(folder) + "/" if self._inside(folder) else ""
        return iter(sorted((p[len(start) :] for p in self.states if p.startswith(start)), key=os.fsencode))

    def states_of(self, folder: str, paths: list[str]) -> np.ndarray:
        """int64 (n, 2), of some images by their paths relative to a folder."""
        start = self._inside(folder)
        return np.array([self.states[posixpath.join(start, path)] for path in paths], np.int64).reshape(-1, 2)


def hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
