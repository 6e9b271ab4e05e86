"""The names of many images as one run of bytes: those of a pack are looked up when they are asked for, and those of a
catalog take their letters and eight bytes each.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

BLOCK = 1 << 14  # names that are decoded together


class Names(Sequence[str]):
    """N names in one array of bytes: where each begins and the last ends, (N + 1,) int64, then their text.

    Args:
        n: how many.
        content: gives the array of bytes, such as a mapped file.
        ids: gives (N,) uint64, the names' `name_ids`.
    """

    def __init__(self, n: int, content: Callable[[], np.ndarray], ids: Callable[[], np.ndarray]) -> None:
        self.n, self.content, self.ids = n, content, ids

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Names that come one by one, kept in memory."""
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        content = np.concatenate([np.frombuffer(ends, np.uint8), np.frombuffer(text, np.uint8)])
        return cls.held(content, len(ends) - 1)

    @classmethod
    def held(cls, content: np.ndarray, n: int) -> Names:
        """n names whose array of bytes is there already."""
        names = cls(n, lambda: content, lambda: name_ids(names.encoded(np.arange(n))))
        return names

    def part(self, start: int, stop: int) -> Names:
        """Names start..stop, looked up in these."""
        return PartOfNames(self, start, stop)

    def in_order(self) -> np.ndarray | None:
        """Their order by bytes, (N,) int64; None where they stand in it already."""
        before = b""
        for name in self.encoded(np.arange(self.n)):
            if name < before:
                every = list(self.encoded(np.arange(self.n)))
                return np.array(sorted(range(self.n), key=every.__getitem__), np.int64)
            before = name
        return None

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            rows = range(self.n)[index]
            return self.select(np.arange(rows.start, rows.stop, rows.step))
        return self.select(np.array([range(self.n)[index]]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self.n, BLOCK):
            yield from self[start : start + BLOCK]

    def select(self, rows: np.ndarray) -> list[str]:
        """The names of some rows (n,)."""
        return [os.fsdecode(name) for name in self.encoded(rows)]

    def ids_within(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) uint64, the `name_ids` of a run of rows."""
        return self.ids()[start:stop]

    def encoded(self, rows: np.ndarray) -> Iterator[bytes]:
        """The names of some rows as the file system has them."""
        content = self.content()
        ends, text = content[: 8 * (self.n + 1)].view("<i8"), content[8 * (self.n + 1) :]
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            for a, b in zip(ends[some].tolist(), ends[some + 1].tolist(), strict=True):
                yield text[a:b].tobytes()


class PartOfNames(Names):
    """Some names in a row, of others."""

    def __init__(self, names: Names, start: int, stop: int) -> None:
        super().__init__(stop - start, names.content, lambda: names.ids()[start:stop])
        self._names, self._start = names, start

    def encoded(self, rows: np.ndarray) -> Iterator[bytes]:
        return self._names.encoded(rows + self._start)


def content_of(names: Sequence[bytes]) -> np.ndarray:
    """The array of bytes that `Names` reads, of names as the file system has them."""
    ends = np.cumsum([0, *map(len, names)], dtype="<i8")
    return np.concatenate([ends.view(np.uint8), np.frombuffer(b"".join(names), np.uint8)])


def name_ids(names: Iterable[bytes]) -> np.ndarray:
    """What random draws know an image by: 64 bits of the SHA-256 of its name without the suffix.

    The suffix is not hashed: the editions of a dataset (EuroSAT's JPEGs and its 13-band GeoTIFFs) share their test
    scenes.

    Args:
        names: as the file system has them.

    Returns:
        (n,) uint64.
    """
    ids = [hashlib.sha256(os.path.splitext(name)[0]).digest()[:8] for name in names]
    return np.frombuffer(b"".join(ids), "<u8")


def select(paths: Sequence[str], rows: np.ndarray) -> list[str]:
    """The paths of some rows (n,), of a list as of `Names`."""
    return paths.select(rows) if isinstance(paths, Names) else [paths[i] for i in rows.tolist()]
