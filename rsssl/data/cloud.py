"""Many files elsewhere than on this machine, asked for at the same time, and archives read from their beginning on.

Only addresses that a user typed, and what lies below them, are ever opened. See remote.py.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Sequence
from typing import Any

from rsssl.data.remote import is_remote, opened, patiently, unreadable
from rsssl.errors import UserError

MEANT = "the address of what is, or look at how it is written"  # where there is no such file
READ = 1 << 20  # bytes asked for at a time, of a file that is read from its beginning
Part = tuple[str, "int | None", "int | None"]  # address, first byte, byte after the last; None, None: all of the file


def address(name: str) -> str:
    """A name that is one plain address.

    Raises:
        UserError: for several that are joined, of which each would be opened.
    """
    if "::" in name:
        raise UserError(f"{name} joins several addresses with '::': type a plain one, s3://bucket/folder")
    return name


def join(root: str, name: str) -> str:
    """The address of what lies below another one."""
    return f"{root.rstrip('/')}/{name}"


def relative(root: str, name: str) -> str | None:
    """A name below the address `root`, relative to it; None for one that lies elsewhere."""
    start = root.rstrip("/") + "/"
    rest = name[len(start) :] if name.startswith(start) else name
    elsewhere = is_remote(rest) or "::" in rest or rest.startswith("/") or ".." in rest.split("/")
    return None if elsewhere else posixpath.normpath(rest)


def fetch(parts: Sequence[Part]) -> list[bytes | FileNotFoundError]:
    """Several files, or ranges of them, asked for at the same time; what fails is asked for again.

    Args:
        parts: of files of one file system.

    Returns:
        Their content, or for a file that is not there the error that says so.

    Raises:
        UserError: when a file cannot be read, or ends early, again and again; when it may not be read.
    """
    contents: list[Any] = [None] * len(parts)

    def missing() -> list[int]:
        return [i for i, content in enumerate(contents) if not isinstance(content, bytes | FileNotFoundError)]

    def attempt() -> None:
        wanted = missing()
        for i, content in zip(wanted, _ranges([parts[i] for i in wanted]), strict=True):
            contents[i] = _whole(content, *parts[i])
        for i in missing()[:1]:
            raise contents[i]

    patiently(attempt, lambda: parts[missing()[0]][0], MEANT)
    return contents


def _ranges(parts: Sequence[Part]) -> list[Any]:
    """The content of each, or the error."""
    files, _ = opened(parts[0][0])
    names, starts, stops = zip(*((opened(name)[1], start, stop) for name, start, stop in parts), strict=True)
    try:
        return list(files.cat_ranges(list(names), list(starts), list(stops), on_error="return"))
    except Exception as error:  # each kind of storage has errors of its own
        return [error] * len(parts)


def _whole(content: Any, name: str, start: int | None, stop: int | None) -> Any:
    """The content, if it has the bytes that were asked for, or the error."""
    if isinstance(content, bytes) and start is not None and stop is not None and len(content) != stop - start:
        if len(content) > stop - start:
            raise UserError(f"{name}: this server gives no parts of files (ranges of bytes): copy it to a folder")
        return OSError(f"{len(content)} of {stop - start} bytes came")
    return content


def whole(name: str, start: int | None = None, stop: int | None = None) -> bytes:
    """One file, or a part of it. Raises UserError as `fetch` does, and where it is not there."""
    (content,) = fetch([(name, start, stop)])
    if isinstance(content, FileNotFoundError):
        raise unreadable(name, content, MEANT) from content
    return content


ASKED: dict[str, Callable[[Any, str], Any]] = {
    "info": lambda files, path: files.info(path),
    "glob": lambda files, path: files.glob(path),
    "find": lambda files, path: files.find(path, detail=True),
    "listing": lambda files, path: files.ls(path, detail=True),
}


def asked(name: str, what: str) -> Any:
    """What a file system says of an address, to one of the questions ASKED; asked again when that fails."""
    files, path = opened(name)
    return patiently(lambda: ASKED[what](files, path), lambda: name, MEANT)


def state(info: dict[str, Any]) -> tuple[int, str]:
    """Bytes of a file, and what changes when it does, as far as its server says."""
    keys = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
    return int(info.get("size") or 0), next((str(info[key]) for key in keys if info.get(key)), "")


class Stream(io.RawIOBase):
    """A file that is asked for as it is read, with jumps ahead; to be read through io.BufferedReader(stream, READ)."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size, self.at = name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        stop = min(self.size, self.at + len(buffer))
        if stop <= self.at:
            return 0
        content = whole(self.name, self.at, stop)
        buffer[: len(content)] = content
        self.at = stop
        return len(content)
