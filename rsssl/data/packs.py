"""A dataset in many packs, which is used as one: its images are numbered through.

    folder/part-00000/   a whole pack (pack.py), and so on
    folder/parts.json    of each part its name, length, fingerprint, sums of moments and number of skipped images
    folder/labels.bin    (N,) int64, where a part has labels
    folder/card.json     as of a pack; "kind" is "packs"

A part is opened when one of its images is read, or its name asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.chunks import mean_std
from rsssl.data.ground import Ground
from rsssl.data.names import BLOCK, Names
from rsssl.data.pack import CARD, Pack, again, damaged, opened
from rsssl.data.reads import read_rows
from rsssl.data.remote_file import tiles_of_block
from rsssl.data.write_pack import write_files
from rsssl.engine.files import HashedFile, sha256
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.records import read_list

KIND, PARTS = "packs", "parts.json"
AT_ONCE = 240  # parts whose files are read together: fewer than 256 are open, those that handles.py keeps among them
ALIKE = ("bands", "dtype", "low", "high", "nodata", "classes", "size", "gsd")  # in the cards of all parts


def open_packed(folder: str | Path) -> Pack:
    """Opens a pack, or a folder of them.

    Raises:
        FileNotFoundError: when there is none.
        UserError: when it is damaged.
    """
    folder = Path(folder)
    card, meta, columns = opened(folder)
    return Packs(folder, card, meta, columns) if meta.get("kind") == KIND else Pack(folder, card, meta, columns)


class Packs(Pack):
    """Packs of one dataset as one. `moments` and `ground` are put together in memory when they are asked for."""

    def __init__(self, folder: Path, card: SensorCard, meta: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        super().__init__(folder, card, meta, columns)
        try:
            self._parts = Parts(folder, read_list(folder / PARTS, again(folder)))
            self.starts = np.cumsum([0, *(n for _, n, *_ in self._parts.listed)])
        except (OSError, ValueError, TypeError) as error:
            raise damaged(folder, error) from error

    @property
    def parts(self) -> Parts:
        return self._parts

    @cached_property
    def paths(self) -> Names:
        return JoinedNames(self)

    @property
    def images(self) -> np.ndarray:
        raise TypeError("the pixels of several packs are not one array: use read()")

    @property
    def moments(self) -> np.ndarray:
        return np.concatenate([part.moments for part in self.parts])

    @property
    def ground(self) -> Ground | None:
        places = [ground for part in self.parts if (ground := part.ground) is not None]
        if len(places) < len(self.parts):
            return None
        return Ground(*(np.concatenate([getattr(ground, f.name) for ground in places]) for f in fields(Ground)))

    @cached_property
    def skipped(self) -> dict[str, str]:
        some = [self.parts[k].skipped for k, entry in enumerate(self.parts.listed) if entry[4]]
        return {path: reason for skipped in some for path, reason in skipped.items()}

    @property
    def sha256(self) -> str:
        raise TypeError("the pixels of several packs are not one file: see checksums")

    @cached_property
    def checksums(self) -> dict[str, str]:
        named = zip(self.parts.listed, self.parts, strict=True)
        inside = {f"{entry[0]}/{name}": digest for entry, part in named for name, digest in part.checksums.items()}
        return super().checksums | inside

    def block_rows(self) -> np.ndarray:
        step = tiles_of_block(self.image_bytes)
        return np.concatenate([np.arange(a, b, step) for a, b in pairwise(self.starts.tolist())])

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out, rows = self._room(rows, out), np.asarray(rows)
        numbers, which = np.unique(self.part_of(rows), return_inverse=True)
        for first in range(0, len(numbers), AT_ONCE):
            packs = [self.parts[k] for k in numbers[first : first + AT_ONCE].tolist()]
            places = np.flatnonzero((which >= first) & (which < first + AT_ONCE))
            try:
                files = [pack.pixels() for pack in packs]  # held here for as long as they are read
                descriptors = np.array([file.number for file in files])[which[places] - first]
                inside = rows[places] - self.starts[numbers[which[places]]]
                read_rows(descriptors, inside, self.image_bytes, out, places)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"images.bin of a part of {self.folder}") from error
        return out

    def part_of(self, rows: np.ndarray | np.int64) -> np.ndarray:
        """(n,) the number of the part that each row lies in."""
        return np.searchsorted(self.starts, rows, side="right") - 1


class Parts(Sequence[Pack]):
    """The parts of a dataset, opened when they are asked for.

    Args:
        folder: of the dataset.
        listed: the content of parts.json.
    """

    def __init__(self, folder: Path, listed: Sequence[Sequence[Any]]) -> None:
        self.folder, self.listed = folder, listed
        self._opened: dict[int, Pack] = {}

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, k: Any) -> Any:  # a Pack, or for a slice a list of them
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        if k not in self._opened:
            name, n, fingerprint, *_ = self.listed[k]
            try:
                part = self._open(name)
            except FileNotFoundError as error:
                raise damaged(self.folder, f"{name} is missing") from error
            if (len(part), part.fingerprint) != (n, fingerprint):
                raise damaged(self.folder, f"{name} is another pack than it was")
            self._opened[k] = part
        return self._opened[k]

    def _open(self, name: str) -> Pack:
        return Pack.open(self.folder / name)


class JoinedNames(Names):
    """The names of all images of several packs, each looked up in its own."""

    def __init__(self, packs: Packs) -> None:
        super().__init__(len(packs), self._nothing, self._ids)
        self._packs = packs

    def encoded(self, rows: np.ndarray) -> Iterator[bytes]:
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            which = self._packs.part_of(some)
            names: dict[int, bytes] = {}
            for k in np.unique(which).tolist():
                mine = np.flatnonzero(which == k)
                inside = self._packs.parts[k].paths.encoded(some[mine] - self._packs.starts[k])
                names.update(zip(mine.tolist(), inside, strict=True))
            yield from (names[i] for i in range(len(some)))

    def ids_within(self, start: int, stop: int) -> np.ndarray:
        parts, starts, some = self._packs.parts, self._packs.starts, [np.empty(0, np.uint64)]
        for k in range(int(self._packs.part_of(np.int64(start))), len(parts)):
            if starts[k] >= stop:
                break
            some.append(parts[k].paths.ids_within(max(start - starts[k], 0), stop - starts[k]))
        return np.concatenate(some)

    def _ids(self) -> np.ndarray:
        return np.concatenate([part.paths.ids() for part in self._packs.parts])

    def _nothing(self) -> np.ndarray:
        raise TypeError("the names of several packs are not one array")


def join(folder: Path, source: str, root: str) -> Packs:
    """Makes one dataset of the finished packs part-00000, part-00001, ... that lie in a folder, and opens it.

    Args:
        folder: of the parts.
        source: a hash of all that they were made from.
        root: the folder that the images lay in.

    Raises:
        UserError: when a part is damaged, or of another form than the first.
    """
    parts = [Pack.open(path.parent) for path in sorted(folder.glob(f"part-*/{CARD}"))]
    first = parts[0].card
    for part in parts:
        for field in ALIKE:
            if getattr(part.card, field) != getattr(first, field):
                raise UserError(
                    f"{part.folder} and {parts[0].folder} differ in their {field}, and cannot be one dataset: pack "
                    f"them again, rm -r '{folder}'"
                )
    sums = np.sum([part.sums for part in parts], axis=0)
    mean, std = (tuple(values.tolist()) for values in mean_std(sums))
    listed = [[p.folder.name, len(p), p.fingerprint, p.sums.tolist(), p.n_skipped] for p in parts]
    texts, files, temporary = {PARTS: json.dumps(listed, separators=(",", ":")).encode()}, {}, {}
    if any(part.labelled for part in parts):
        with open(folder / "labels.part", "wb") as file:
            hashed = HashedFile(file)
            for part in parts:
                hashed.write(np.ascontiguousarray(part.labels, "<i8").data)
        temporary["labels.bin"] = folder / "labels.part"
        files["labels.bin"] = [temporary["labels.bin"].stat().st_size, hashed.hexdigest()]
    meta = {
        "kind": KIND,
        "n": sum(map(len, parts)),
        "sums": sums.tolist(),
        "done": {k: sum(p.done.get(k, 0) for p in parts) for k in sorted({k for p in parts for k in p.done})},
        "skipped": sum(part.n_skipped for part in parts),
        "fingerprint": sha256(json.dumps([KIND, *(part.fingerprint for part in parts)]).encode()),
        "source": source,
        "root": root,
    }
    write_files(folder, replace(first, mean=mean, std=std), meta, texts, files, temporary)
    return Packs(folder, *opened(folder))
