"""What the members of a tar archive in the layout of WebDataset are: images, and the class beside each."""

from __future__ import annotations

import io
import json
import os
import posixpath
from collections.abc import Mapping
from typing import BinaryIO

from rsssl.data import cloud, tar
from rsssl.data.catalog import EXTENSIONS
from rsssl.data.decoders import POINTERS
from rsssl.data.remote import is_remote
from rsssl.errors import UserError

LABELS = (".cls", ".txt", ".json")  # which of an image's is taken, when it has several
KEYS = ("class", "label", "cls")  # under which a .json has the class
KNOWN = EXTENSIONS | POINTERS.keys() | set(LABELS)
LABEL_BYTES = 1 << 16
UNLABELLED = "for images without classes type 'dataset.classes=[]'"


def images_of(archive: str, size: int, labelled: bool) -> list[tuple[str, int, int, str | None]]:
    """The images of an archive: name, first byte, bytes, and the class as it stands beside them.

    Args:
        archive: a file, or an address.
        size: bytes of it.
        labelled: whether classes are looked for.

    Raises:
        UserError: as `tar.members` does; for an unsafe name, an image that is no plain file, one that comes twice, and
            a class that cannot be read.
    """
    images, labels = dict[str, tuple[int, int]](), dict[str, tuple[int, str]]()
    with opened(archive, size) as file:
        for name, kind, offset, length in tar.members(file, archive, size):
            stem, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            if os.path.basename(name).startswith(".") or suffix not in KNOWN:
                continue
            refuse_unsafe(archive, name, kind)
            if suffix not in LABELS:
                if name in images:
                    raise UserError(f"{archive} holds {name} twice: make it again with each image once")
                images[name] = offset, length
            elif labelled and LABELS.index(suffix) < labels.get(stem, (len(LABELS), ""))[0]:
                if length > LABEL_BYTES:
                    raise UserError(f"{archive}: {name} has {length} bytes, too many for a class: {UNLABELLED}")
                file.seek(offset)
                labels[stem] = LABELS.index(suffix), class_in(file.read(length), suffix, f"{archive}: {name}")
    return [(name, *where, label_of(name, labels)) for name, where in images.items()]


def opened(archive: str, size: int) -> BinaryIO:
    """An archive, for reading its headers."""
    if is_remote(archive):
        return io.BufferedReader(cloud.Stream(archive, size), cloud.READ)
    return open(archive, "rb", buffering=1 << 16)


def label_of(name: str, labels: Mapping[str, tuple[int, str]]) -> str | None:
    """The class beside an image: that of its stem, or of what stands before the first dot of its name."""
    stem = os.path.splitext(name)[0]
    first = posixpath.join(posixpath.dirname(name), posixpath.basename(name).split(".")[0])
    return labels.get(stem, labels.get(first, (0, None)))[1]


def refuse_unsafe(archive: str, name: str, kind: bytes) -> None:
    """Raises UserError for a member that could be meant to reach out of the archive."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{archive} holds {name!r}, whose name leads out of it: make it again, or leave it out")
    if kind not in tar.REGULAR:
        raise UserError(
            f"{archive}: {name} is a link or no plain file: make it again, tar -h puts in what links lead to"
        )


def class_in(data: bytes, suffix: str, origin: str) -> str:
    """The class that a member holds, as text.

    Raises:
        UserError: when it holds none.
    """
    try:
        text = data.decode().strip()
        if suffix == ".json":
            content = json.loads(text)
            value = next(content[key] for key in KEYS if key in content) if isinstance(content, dict) else content
            text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if suffix == ".cls":
            text = str(int(text))
    except (ValueError, RecursionError, StopIteration) as error:
        kind = {".cls": "a number", ".json": "a class, under class, label or cls"}.get(suffix, "a text")
        raise UserError(f"{origin} holds {data[:40]!r}, not {kind}: correct it, or {UNLABELLED}") from error
    if not text or text.startswith("-"):
        raise UserError(f"{origin} holds {data[:40]!r}, which is no class: correct it, or {UNLABELLED}")
    return text
