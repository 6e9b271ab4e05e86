"""The artefact store: every stage's result under a hash of what went into it, worked out once.

    <store>/<stage>/<hash>/            the artefact's files
    <store>/<stage>/<hash>/inputs.json what goes in, for an unfinished one
    <store>/<stage>/<hash>/done.json   written last: what went in, when it was finished, and each file's SHA-256; it is
                                       touched whenever the artefact is used again

A stage is a pure function of its inputs. A folder without `done.json` is unfinished work, which the stage may resume.
A finished one is looked at before it is used again (integrity.py): what is damaged is named, thrown away and made
again. Two processes that want the same artefact take a file lock: one works, the other waits.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsssl import records
from rsssl.engine import integrity
from rsssl.engine.files import explain_os_error, lock_of, locked, write_atomic, write_sealed
from rsssl.engine.ranks import rank, world_size
from rsssl.engine.users import in_use
from rsssl.errors import UserError
from rsssl.records import Damaged, read_json, read_sealed

log = logging.getLogger(__name__)

INPUTS, DONE = "inputs.json", "done.json"
KEPT = ".keep"  # in the folder of an artefact that was asked to be kept
STAGES = ("backbone", "features", "ground", "pack", "pretrain")
AGAIN = "run the command that made it again"


def digest(inputs: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for `inputs` (JSON values; the order of keys does not matter)."""
    return records.digest(inputs)[:16]


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its hash, and whether it was there already."""

    folder: Path
    hash: str
    reused: bool
    seconds: float


class Store:
    """Artefacts below one root folder.

    Args:
        root: that folder.
        cache: where blocks of packs in object storage are kept, and how many GB of them.

    Attributes:
        root: that folder.
        opened: by their hash, what is kept open between the jobs of a sweep, which run in one process.
    """

    def __init__(self, root: str | Path, cache: tuple[str, float] | None = None) -> None:
        self.root, self._cache = Path(root).expanduser().resolve(), cache
        self.opened: dict[str, Any] = {}

    def blocks(self) -> tuple[Path, int]:
        """Where blocks of packs in object storage are kept, and how many bytes of them."""
        if self._cache is None:
            raise UserError("this store has no cache for packs in object storage: type paths.cache=DIR")
        return Path(self._cache[0]).expanduser().resolve(), int(1e9 * self._cache[1])

    def folder(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        """Where the artefact of a stage lies; the stage is one of STAGES."""
        if stage not in STAGES:
            raise ValueError(f"{stage} is not among STAGES, which task=store lists")
        return self.root / stage / digest(inputs)

    def begin(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        """The folder of an artefact that several processes work on at the same time, before each calls `get`."""
        folder = self.folder(stage, inputs)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, folder) from error
        if not (folder / INPUTS).is_file():
            write_sealed(folder / INPUTS, {"stage": stage, "inputs": inputs})
        return folder

    def get(
        self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object], together: bool = False
    ) -> Artifact:
        """The artefact of `stage` for `inputs`, built by `build(folder)` unless it is finished already.

        `build` may find the remains of an interrupted attempt in its folder, and resumes or overwrites them. What it
        returns may know the SHA-256 of files, as `checksums`. Under torchrun rank 0 builds, and the others wait and do
        what it broadcasts, functions to call; or, when `together`, all ranks call `build` at the same time.
        """
        if world_size() == 1:
            return self._get(stage, inputs, build)
        return self._get_under_torchrun(stage, inputs, build, together)

    def _get_under_torchrun(
        self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object], together: bool
    ) -> Artifact:
        from rsssl.engine.distributed import broadcast  # torch, which packing on one process does without

        if rank() == 0:

            def build_all(folder: Path) -> object:
                if together:
                    broadcast("build")
                return build(folder)

            artifact = self._get(stage, inputs, build_all)
            broadcast(artifact)
            return artifact
        word = broadcast(None)
        while not isinstance(word, Artifact):
            build(self.folder(stage, inputs)) if word == "build" else word()
            word = broadcast(None)
        return word

    def _get(self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object]) -> Artifact:
        folder = self.folder(stage, inputs)
        in_use(folder)
        if (seconds := whole(folder)) is not None:
            log.info("%s %s: reused", stage, folder.name)
            return Artifact(folder, folder.name, True, seconds)
        waiting = f"{stage} {folder.name}: another process is working on it; waiting"
        with locked(lock_of(folder), waiting=waiting):
            if (seconds := whole(folder)) is not None:
                log.info("%s %s: reused (another process has just finished it)", stage, folder.name)
                return Artifact(folder, folder.name, True, seconds)
            try:
                throw_away(folder, damage(folder))
                log.info("%s %s: working", stage, folder.name)
                begin = time.monotonic()
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain_os_error(error, folder) from error
            write_sealed(folder / INPUTS, {"stage": stage, "inputs": inputs})
            made = build(folder)
            seconds = time.monotonic() - begin
            record = {"stage": stage, "inputs": inputs, "seconds": seconds, "finished": time.time()}
            files = integrity.listing(folder, getattr(made, "checksums", None))
            write_sealed(folder / DONE, record | {"files": files})
            log.info("%s %s: done in %.0f s", stage, folder.name, seconds)
            return Artifact(folder, folder.name, False, seconds)


def whole(folder: Path) -> float | None:
    """The seconds that a finished artefact took; None for one that is unfinished or damaged.

    A damaged file that no result follows from is thrown away.
    """
    if not is_finished(folder):
        return None
    names = damage(folder)
    if any(map(integrity.needed, names)):
        return None
    for name in names:
        log.warning("%s is not what was written, and thrown away", folder / name)
        with suppress(OSError):  # a store may be for reading only
            (folder / name).unlink()
    seconds: float = read_sealed(folder / DONE, AGAIN)["seconds"]
    touch(folder / DONE)
    return seconds


def touch(record: Path) -> None:
    """Says that an artefact is used again."""
    with suppress(OSError):  # a store may be for reading only
        os.utime(record)


def is_finished(folder: Path) -> bool:
    """Whether an artefact was finished; it may have been damaged since."""
    return (folder / DONE).is_file()


def damage(folder: Path, everything: bool = False) -> list[str]:
    """The names of a finished artefact's files that are not what was written; none for unfinished work.

    Args:
        folder: of the artefact.
        everything: see `integrity.changed`.
    """
    if not is_finished(folder):
        return []
    try:
        record = read_sealed(folder / DONE, AGAIN)
    except Damaged:
        return [DONE]
    return integrity.changed(folder, record["files"], everything)


def throw_away(folder: Path, names: list[str]) -> None:
    """Removes damaged files, and the record that the artefact is finished; says so."""
    if not names:
        return
    log.warning("%s is damaged and made again: not what was written are %s", folder, ", ".join(names))
    for name in (DONE, *names):
        (folder / name).unlink(missing_ok=True)


def keep(folder: Path) -> None:
    """From now on an artefact is removed by its own STAGE/HASH alone; a training keeps what it may be gone on from."""
    write_atomic(folder / KEPT, b"")


def is_kept(folder: Path) -> bool:
    """Whether an artefact was asked to be kept."""
    return (folder / KEPT).is_file()


def inputs_of(folder: Path) -> dict[str, Any] | None:
    """What went into the artefact in this folder, finished or not; None where nothing says it that can be read."""
    for name in (INPUTS, DONE):
        try:
            inputs: dict[str, Any] = read_sealed(folder / name, AGAIN)["inputs"]
            return inputs
        except Damaged:
            continue
    return None


def recorded(run: Path) -> Path | None:
    """The store folder that a run directory's results name: no other folder is ever looked into.

    Raises:
        Damaged: when the results cannot be read.
    """
    for name in ("results.json", "pretrain.json"):
        if (run / name).is_file():
            record = read_json(run / name, "run its command again").get("pretrain")
            folder = record.get("folder") if isinstance(record, dict) else None
            return Path(folder) if isinstance(folder, str) and is_artifact(Path(folder)) else None
    return None


def is_artifact(folder: Path) -> bool:
    """Whether a folder has the place and the name of an artefact: <store>/<stage>/<hash>."""
    return (
        folder.is_absolute() and folder.parent.name in STAGES and re.fullmatch("[0-9a-f]{16}", folder.name) is not None
    )
