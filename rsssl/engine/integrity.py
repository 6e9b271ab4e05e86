"""Whether the files of a finished artefact are what was written: their SHA-256, size and time of change.

At every reuse the content of an artefact's files is read and compared, up to ALWAYS bytes (half a second), the small
files first; of larger ones the size and the time of change are looked at, and the content where these differ.
`task=store verify=true` reads everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.engine.files import sha256_of

ALWAYS = 1 << 30  # bytes of an artefact
LEFT_OUT = (".", "checkpoint-", "wandb")
LOOKED_AT = ("metrics.csv", "config.yaml")  # for people: what lies in folders below (pictures, events) is too


def listing(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, list[Any]]:
    """SHA-256, size and time of change (ns) of an artefact's files, by their names relative to its folder.

    Hidden files are left out, checkpoints, which have a record of their own, and wandb's, whose own process writes on.

    Args:
        folder: of the artefact.
        known: the SHA-256 of files that it was taken of while they were written.
    """
    known = known or {}
    files = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(LEFT_OUT) for part in name.parts):
            status = file.stat()
            digest = known.get(name.as_posix()) or sha256_of(file)
            files[name.as_posix()] = [digest, status.st_size, status.st_mtime_ns]
    return files


def changed(folder: Path, files: Mapping[str, list[Any]], everything: bool = False) -> list[str]:
    """The names of the files that are not what was listed; what is for people only may be missing.

    Args:
        folder: of the artefact.
        files: its `listing`, when it was finished.
        everything: read every file, whatever its size.
    """
    names, budget = [], ALWAYS
    for name, (digest, size, time) in sorted(files.items(), key=lambda item: item[1][1]):
        try:
            status = (folder / name).stat()
        except OSError:
            names += [name] if needed(name) else []
            continue
        if status.st_size != size:
            names.append(name)
        elif everything or size <= budget or status.st_mtime_ns != time:
            budget -= size
            names += [name] if sha256_of(folder / name) != digest else []
    return names


def needed(name: str) -> bool:
    """Whether results follow from this file of an artefact: from its parts', and from all that are in no folder."""
    return name.startswith("part-") or ("/" not in name and name not in LOOKED_AT)
