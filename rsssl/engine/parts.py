"""Work cut into numbered parts, each kept in a file of its own as soon as it is done: killed at any moment, it goes on."""

from __future__ import annotations

import glob
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rsssl.engine.distributed import broadcast, collect, together
from rsssl.engine.files import explain_os_error, write_atomic, write_json
from rsssl.engine.ranks import rank, world_size
from rsssl.engine.store import digest
from rsssl.errors import UserError

log = logging.getLogger(__name__)


class Parts:
    """The parts of what will be `target`, in a hidden folder beside it: `.NAME.parts/00000012`.

    Parts of other inputs (another checkpoint, another scene) are thrown away. Under torchrun the ranks take turns at what is
    missing, and a part does not depend on who makes it.

    Args:
        target: the file that will be made. inputs: JSON values that the parts follow from. n: how many there are.
    """

    def __init__(self, target: Path, inputs: Mapping[str, Any], n: int) -> None:
        self.target, self.n = target, n
        self.folder = target.with_name(f".{target.name}.parts")
        together(lambda: self._prepare(digest(inputs)) if rank() == 0 else None)
        self.done: set[int] = broadcast(
            {int(p.name) for p in self.folder.iterdir() if p.name.isdigit()} if rank() == 0 else None
        )
        if rank() == 0 and self.done:
            log.info("%s: going on, %d of %d parts are done", target, len(self.done), n)

    def _prepare(self, key: str) -> None:
        record = self.folder / "inputs.json"
        try:
            for old in self.folder.parent.glob(f"{glob.escape(self.folder.name)}.old-*"):
                shutil.rmtree(old, ignore_errors=True)
            if self.folder.exists() and known_key(record) != key:
                self.remove()  # of other inputs, or of nobody knows which
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob(".*"):
                file.unlink()  # half-written, by a process that was killed
            if not record.is_file():
                write_json(record, {"key": key})
        except OSError as error:
            raise explain_os_error(error, self.folder) from error

    def missing(self) -> list[int]:
        """The parts that this rank has to make."""
        return [i for i in range(self.n) if i not in self.done][rank() :: world_size()]

    def path(self, i: int) -> Path:
        return self.folder / f"{i:08d}"

    def write(self, i: int, data: bytes) -> None:
        write_atomic(self.path(i), data)

    def wait(self) -> None:
        """Until all ranks have made their parts."""
        collect(None)

    def remove(self) -> None:
        """When the target stands. Renamed first: parts without their record could be taken for others."""
        away = self.folder.with_name(f"{self.folder.name}.old-{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            self.folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


def known_key(record: Path) -> str | None:
    """The key in a record; None for one that is missing or damaged."""
    try:
        return str(json.loads(record.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def alone_at(target: Path) -> Iterator[None]:
    """No other command makes the same file meanwhile; on rank 0, for all ranks.

    Raises:
        UserError: when one does.
    """
    if rank() > 0:
        yield
        return
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another command is making {target}: wait for it, or type out= with another name") from None
    except OSError as error:
        raise explain_os_error(error, target) from error
    try:
        yield
    finally:
        lock.release()
