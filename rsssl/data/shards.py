"""Tar archives in the layout of WebDataset as a source of images, read where they lie.

    shards-000.tar    0001.png 0001.cls 0002.png 0002.cls ...

Members of one stem belong together: an image, and its class in .cls (a number), .txt (a name) or .json ({"class": ..}).
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data import cloud
from rsssl.data.catalog import Catalog
from rsssl.data.class_names import ClassColumn
from rsssl.data.members import images_of
from rsssl.data.names import Names
from rsssl.data.readers import Members
from rsssl.data.remote import is_remote
from rsssl.data.tree import image_name, is_folder
from rsssl.engine.files import locked, sha256, write_atomic
from rsssl.engine.progress import followed
from rsssl.errors import UserError
from rsssl.records import read_list

MOST = 100_000  # archives
ARRAYS, NAMES = ("names.npy", "labels.npy", "places.npy"), "classes.json"  # what headers say; the last one written
AT_ONCE = 16  # archives whose state is asked for at the same time
State = tuple[int, str]  # bytes, and what changes with the content


def named(root: str) -> list[str]:
    """The archives that a root names, sorted; none where it names something else.

    Args:
        root: a folder that holds nothing but archives, an archive, or a pattern with {000..099}, {a,b}, * or ?.

    Raises:
        UserError: for a pattern that nothing fits.
    """
    if not root.endswith(".tar"):
        return in_folder(root)
    names = list(itertools.islice(expanded(root), MOST + 1))
    if len(names) > MOST:
        raise UserError(f"dataset.root={root} names more than {MOST:,} archives: type a pattern for fewer")
    found = sorted({name for pattern in names for name in matching(pattern)}, key=os.fsencode)
    if not found:
        raise UserError(f"dataset.root={root}: no file has such a name; type dataset.root=FOLDER/NAME-{{000..099}}.tar")
    return found


def expanded(pattern: str) -> Iterator[str]:
    """The names that braces stand for, as in a shell: {000..099} counts, {a,b} lists."""
    if (braces := re.search(r"\{([^{}]*)\}", pattern)) is None:
        yield pattern
        return
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        first, last = counted.groups()
        width = len(first) if first.startswith("0") else 0
        words: Any = (f"{n:0{width}d}" for n in range(int(first), int(last) + 1))
    else:
        words = braces[1].split(",")
    for word in words:
        yield from expanded(pattern[: braces.start()] + word + pattern[braces.end() :])


def matching(pattern: str) -> list[str]:
    """The files that a name with * or ? fits; the name itself where it has none."""
    if not any(c in pattern for c in "*?"):
        return [pattern]
    if not is_remote(pattern):
        return glob.glob(os.path.expanduser(pattern))
    if pattern.startswith("http"):
        raise UserError(
            f"dataset.root={pattern}: a web server does not list its files: type braces, {{000..099}}, for *"
        )
    folder = posixpath.dirname(pattern)
    return [cloud.join(folder, posixpath.basename(name)) for name in cloud.asked(pattern, "glob")]


def in_folder(root: str) -> list[str]:
    """The archives in a folder that holds nothing else that could be meant; a web server's is not looked into."""
    if root.startswith("http"):
        return []
    if is_remote(root):
        listed = cloud.asked(cloud.address(root), "listing")
        entries = ((posixpath.basename(e["name"].rstrip("/")), e["type"] == "directory") for e in listed)
    elif os.path.isdir(root := os.path.expanduser(root)):
        entries = ((e.name, is_folder(e)) for e in os.scandir(root))
    else:
        return []
    archives = []
    for name, folder in entries:
        if folder or image_name(name):
            return []  # tiles, beside which archives happen to lie
        archives += [name] if name.endswith(".tar") and not name.startswith(".") else []
    return sorted((cloud.join(root, name) for name in archives), key=os.fsencode)


@dataclass(frozen=True)
class ShardCatalog(Catalog):
    """Members of archives that are images.

    Args:
        archives: those that hold them, and others of the same source.
        archive_states: what they were when they were first looked at.
    """

    archives: tuple[str, ...] = ()
    archive_states: tuple[State, ...] = ()

    def changed(self) -> list[str]:
        assert self.places is not None
        used = np.unique(self.places[:, 0]).tolist()
        now = states_of([self.archives[i] for i in used])
        return [self.archives[i] for i, state in zip(used, now, strict=True) if state != self.archive_states[i]]

    def listing(self) -> str:
        assert self.places is not None
        return sha256(self.origin.encode() + self.places[:1].tobytes() + self.places[-1:].tobytes())


class Shards:
    """Archives whose members are not known yet.

    Args:
        archives: files, or addresses.
        classes: see `rsssl.data.dataset.Dataset`.

    Raises:
        UserError: for one that is not there.
    """

    def __init__(self, archives: Sequence[str], classes: Sequence[str] | None) -> None:
        self.archives = [a if is_remote(a) else os.path.abspath(os.path.expanduser(a)) for a in archives]
        self.classes = classes
        self.root = posixpath.dirname(os.path.commonprefix(self.archives))  # noqa: RUF071, addresses have empty parts
        self.states = states_of(self.archives)

    def listing(self) -> str:
        """sha256 over the archives' names, sizes and times of change, and what decides on the classes."""
        return sha256(json.dumps([[a[len(self.root) :] for a in self.archives], self.states, self.classes]).encode())

    def catalog(self, index: Path | None = None) -> Catalog:
        """The images; see `Source`. What the headers say is kept.

        Raises:
            UserError: for an archive or a label that cannot be read, and for a member whose name leads out of it.
        """
        if index is None:
            arrays, classes = self._index()
            return self._catalog(arrays, classes)
        with locked(index.with_name(f"{index.name}.lock"), waiting="another process reads the headers; waiting"):
            if not (index / NAMES).is_file():
                arrays, classes = self._index()
                index.mkdir(parents=True, exist_ok=True)
                for name, array in zip(ARRAYS, arrays, strict=True):
                    np.save(index / name, array)
                write_atomic(index / NAMES, json.dumps(classes).encode())
        mapped = [np.load(index / name, mmap_mode="r").view(np.ndarray) for name in ARRAYS]
        return self._catalog(mapped, tuple(read_list(index / NAMES, f"remove it: rm -r '{index}'")))

    def _catalog(self, arrays: Sequence[np.ndarray], classes: tuple[str, ...]) -> Catalog:
        names, labels, places = arrays
        archives, n = tuple(self.archives), len(labels)
        return ShardCatalog(
            self.root,
            Names.held(names, n),
            labels,
            classes,
            Members(archives),
            places,
            self.listing(),
            archives=archives,
            archive_states=tuple(self.states),
        )

    def _index(self) -> tuple[list[np.ndarray], tuple[str, ...]]:
        """The images' names as `Names` has them, labels and places; and the names of the classes."""
        column, places = ClassColumn(self.root, self.classes), list[np.ndarray]()

        def paths() -> Iterator[str]:
            for number, archive in enumerate(followed(self.archives, "reading the headers of archives", "archives")):
                images = images_of(archive, self.states[number][0], self.classes != [])
                places.append(
                    np.array([(number, offset, size) for _, offset, size, _ in images], np.int64).reshape(-1, 3)
                )
                for name, _, _, label in images:
                    column.add(label)
                    yield f"{archive[len(self.root) + 1 :]}/{name}"

        names = Names.of(paths())
        if not len(names):
            raise UserError(f"the archives of {self.root} hold no image: type dataset.root= with others")
        labels, classes = column.labels()
        return [names.content(), labels, np.concatenate(places)], classes


def states_of(archives: Sequence[str]) -> list[State]:
    """Size and mark of each.

    Raises:
        UserError: for one that is not there.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(state_of, archives))


def state_of(archive: str) -> State:
    """Size and mark of an archive."""
    if is_remote(archive):
        return cloud.state(cloud.asked(archive, "info"))
    try:
        status = os.stat(archive)
    except OSError as error:
        raise UserError(
            f"{archive} cannot be read ({error.strerror}): type dataset.root= with archives that can"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{archive} is no file: type dataset.root= with archives that are")
    return status.st_size, str(status.st_mtime_ns)
