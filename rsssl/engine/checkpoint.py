"""Checkpoints that are whole or absent, and say so: atomic, checksummed, the last two and the best kept.

    checkpoint-<step>.pt      tensors and plain Python: `torch.load(weights_only=True)` opens it
    checkpoint-<step>.json    its SHA-256, and its score if it has one; written after it, removed before it

A newest file that is damaged is reported, and the one before it is loaded. A file is written while the training goes
on, from a copy of the state.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsssl.engine.files import HashedFile, atomic, sha256_of, write_sealed
from rsssl.errors import UserError
from rsssl.records import Damaged, read_sealed

log = logging.getLogger(__name__)
KEEP = 2


@dataclass(frozen=True)
class Entry:
    """One checkpoint.

    Args:
        file: where it is.
        step: after how many steps it was taken.
        sha256: of the file.
        score: how good it was, where that was measured.
    """

    file: Path
    step: int
    sha256: str
    score: float | None

    @property
    def record(self) -> Path:
        """The file that holds its checksum and its score."""
        return self.file.with_suffix(".json")

    def whole(self) -> bool:
        """Whether the file's checksum is the recorded one."""
        try:
            return sha256_of(self.file) == self.sha256
        except OSError:
            return False

    def remove(self) -> None:
        """The record first: a file without one is no checkpoint, a record without its file is a damaged one."""
        self.record.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)


class Checkpoints:
    """The checkpoints of one training. One process writes them; any number may read.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def entries(self) -> list[Entry]:
        """Those recorded, newest first; one whose record cannot be read has a checksum that nothing matches."""
        entries = []
        for record in self.folder.glob("checkpoint-*.json"):
            try:
                content = read_sealed(record, "delete it")
                checksum, score = content["sha256"], content["score"]
            except Damaged:
                if not record.is_file():  # a training has just purged it
                    continue
                checksum, score = "", None
            entries.append(Entry(record.with_suffix(".pt"), int(record.stem.rpartition("-")[2]), checksum, score))
        return sorted(entries, key=lambda entry: -entry.step)

    def best(self) -> Entry | None:
        """The one of the highest score."""
        return max((e for e in self.entries() if e.score is not None), key=lambda e: (e.score, e.step), default=None)

    def save(self, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Copies the state, and writes the copy in the background.

        Args:
            step: after how many steps the state is.
            state: tensors and plain Python, with "step" among its keys.
            score: how good it is, where that was measured; the checkpoint of the highest score is kept.

        Raises:
            UserError: when the one before could not be written (a full disk); those before that one are still there.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, step, copied(state), score)

    def wait(self) -> None:
        """Until the last one saved is on the disk. Raises what `save` raises."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, step: int, state: dict[str, Any], score: float | None) -> None:
        file = self.folder / f"checkpoint-{step:09d}.pt"
        with atomic(file) as raw:
            hashed = HashedFile(raw)
            try:
                torch.save(state, hashed)  # type: ignore[arg-type]
            except RuntimeError:  # torch's own, for a write that failed
                raise hashed.error or RuntimeError(f"{file} could not be written") from None
        write_sealed(file.with_suffix(".json"), {"step": step, "sha256": hashed.hexdigest(), "score": score})
        self._purge()

    def _purge(self) -> None:
        """Leaves the last KEEP and the best."""
        entries, best = self.entries(), self.best()
        for entry in entries[KEEP:]:
            if best is None or entry.step != best.step:
                entry.remove()
        recorded = {entry.file for entry in self.entries()}
        for file in {*self.folder.glob("checkpoint-*.pt"), *self.folder.glob(".checkpoint-*")} - recorded:
            file.unlink(missing_ok=True)  # of a process that was killed

    def newest(self) -> Entry | None:
        """The newest whole checkpoint, or None when there is none.

        Raises:
            UserError: when checkpoints are recorded but none of them is whole.
        """
        self.wait()
        while entries := self.entries():
            for entry in entries:
                if entry.whole():
                    return entry
                if entry.record.is_file():  # else a training has just purged it
                    log.warning("checkpoint %s is damaged (wrong checksum); trying the one before it", entry.file)
            if all(entry.record.is_file() for entry in entries):
                raise UserError(
                    f"no checkpoint in {self.folder} is whole: delete that folder to start afresh, rm -r {self.folder}"
                )
        return None

    def forget_after(self, step: int) -> None:
        """Removes those of later steps, which are damaged: the training goes on from an earlier one."""
        for entry in self.entries():
            if entry.step > step:
                entry.remove()

    def load(self) -> dict[str, Any] | None:
        """The state of the newest whole checkpoint, or None when there is none. Raises what `newest` raises."""
        entry = self.newest()
        return None if entry is None else read(entry.file)

    def keep_newest(self, most: int = 1) -> None:
        """Leaves so many: one once the training's result is written, from which it may be trained further."""
        self.wait()
        for entry in self.entries()[most:]:
            entry.remove()


def read(file: Path) -> dict[str, Any]:
    """The state in a checkpoint's file, on the CPU, page by page as it is used: an accelerator never holds it twice.

    Raises:
        UserError: when it is none.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler, the archive reader and the system each have their own
        raise UserError(
            f"{file} cannot be read as a checkpoint ({str(error).splitlines()[0]}): type another one"
        ) from None
    if not isinstance(state, dict) or "step" not in state:
        raise UserError(f"{file} is no checkpoint of a training: type a checkpoint-*.pt file, or the folder it lies in")
    return state


def copied(state: Any) -> Any:
    """The state with copies of its tensors, in the processor's memory: the training may go on."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {k: copied(v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(v) for v in state)
    return state
