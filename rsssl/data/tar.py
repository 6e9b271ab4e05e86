"""The headers of a tar archive, read in one pass: where each member's content lies. Nothing is unpacked.

POSIX ustar, with pax and GNU records for long names and large files; compressed archives have no places to read from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from rsssl.errors import UserError

BLOCK = 512
LONGEST = 1 << 16  # bytes of a record that names a member
REGULAR = (b"0", b"\0")
EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: nothing follows, whatever their size
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class Member(NamedTuple):
    """A file in an archive.

    Args:
        name: as the archive has it.
        kind: of the header; one of REGULAR for a plain file.
        offset: where its content begins.
        size: bytes of it.
    """

    name: str
    kind: bytes
    offset: int
    size: int


def members(file: BinaryIO, archive: str, whole: int) -> Iterator[Member]:
    """The members of an archive, one after the other. Between two of them the file may be read elsewhere.

    Args:
        file: opened for reading.
        archive: its name, for messages.
        whole: bytes of it.

    Raises:
        UserError: for what is no archive, is damaged, or ends early.
    """
    at, given = 0, dict[str, str]()
    while True:
        file.seek(at)
        head = file.read(BLOCK)
        if len(head) < BLOCK:
            raise cut_short(archive, at)
        if not head.strip(b"\0"):
            return  # archives end with blocks of zeros
        name, kind, size = _header(head, archive, at)
        record = kind in (b"x", b"g", b"L", b"K")
        if not record:
            name, size = given.get("path", name), _number(given.get("size", str(size)), archive, at)
        size = 0 if kind in EMPTY else size
        if at + BLOCK + size > whole:
            raise cut_short(archive, at, name)
        if not record:
            yield Member(name, kind, at + BLOCK, size)
            given = {}
        elif kind != b"g":
            if size > LONGEST:
                raise damaged(archive, at, f"a name of {size} bytes")
            data = file.read(size)
            given |= _pax(data, archive, at) if kind == b"x" else {"path": _text(data)} if kind == b"L" else {}
        at += BLOCK + -(-size // BLOCK) * BLOCK


def _header(head: bytes, archive: str, at: int) -> tuple[str, bytes, int]:
    """Name, kind and size that a header tells."""
    total = sum(head) - sum(head[148:156]) + 8 * 32
    try:
        right = int(head[148:156].strip(b" \0") or b"0", 8) == total
        large = head[124] & 0x80
        size = int.from_bytes(head[125:136], "big") if large else int(head[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        right, size = False, 0
    if not right:
        for start, program in COMPRESSED.items():
            if at == 0 and head.startswith(start):
                raise UserError(
                    f"{archive} is compressed, so that its members cannot be read where they lie: type {program} "
                    f"< '{archive}' > NAME.tar"
                )
        raise damaged(archive, at, "there is no header of a member")
    name = _text(head[:100])
    if head[257:263] == b"ustar\0" and (prefix := _text(head[345:500])):
        name = f"{prefix}/{name}"
    return name, head[156:157], size


def _text(data: bytes) -> str:
    return os.fsdecode(data.split(b"\0", 1)[0])


def _number(text: str, archive: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise damaged(archive, at, f"a size of {text[:40]!r}")
    return int(text)


def _pax(data: bytes, archive: str, at: int) -> dict[str, str]:
    """The records of a pax header that matter here: lines of "LENGTH KEY=VALUE"."""
    found = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        n = _number(os.fsdecode(length), archive, at)
        key, equals, value = data[len(length) + 1 : n - 1].partition(b"=")
        if not equals or data[n - 1 : n] != b"\n":
            raise damaged(archive, at, "a record that cannot be read")
        if key in (b"path", b"size"):
            found[key.decode()] = os.fsdecode(value)
        data = data[n:]
    return found


def damaged(archive: str, at: int, reason: str) -> UserError:
    """The error for what is no archive any more."""
    return UserError(f"{archive} is no tar archive, or damaged at byte {at} ({reason}): make it again, or leave it out")


def cut_short(archive: str, at: int, name: str = "") -> UserError:
    """The error for an archive that is not whole."""
    where = f"in {name}" if name else f"at byte {at}, without the zeros that end one"
    return UserError(f"{archive} is cut short {where}: copy or make it again, or leave it out")
