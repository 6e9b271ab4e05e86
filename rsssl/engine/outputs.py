"""What a command makes of its inputs: one product at a time, in parts that survive a kill, with a record beside it.

out=map.tif            the product, and what else its command names
map_record.json        written last: what it was made of, and the SHA-256 of each file
.map.tif.parts/        the parts that are done, until the product is whole
"""

from __future__ import annotations

import glob
import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rsssl.engine.distributed import broadcast, collect, raise_together
from rsssl.engine.files import explain_os_error, lock_of, locked, sha256_of, write_atomic, write_sealed
from rsssl.engine.ranks import rank, world_size
from rsssl.engine.store import digest
from rsssl.records import Damaged, read_sealed

log = logging.getLogger(__name__)
AGAIN = "make it again: remove the record and run the same command"


class Output:
    """A product, and what it is made of. Under torchrun all ranks use it together.

    Args:
        target: the product's file.
        inputs: JSON values that the product follows from.
    """

    def __init__(self, target: Path, inputs: Mapping[str, Any]) -> None:
        self.target, self.inputs, self.key = target, inputs, digest(inputs)

    @property
    def record(self) -> Path:
        return record_of(self.target)

    def finished(self, files: Mapping[str, Path]) -> bool:
        """Whether the product stands, made of the same inputs, and all these files are as they were written."""
        stands: bool = broadcast(self._finished(files) if rank() == 0 else None)
        if stands and rank() == 0:
            log.info("%s stands already: made of the same inputs", self.target)
        return stands

    def _finished(self, files: Mapping[str, Path]) -> bool:
        try:
            known = read_sealed(self.record, AGAIN)
            if known["key"] != self.key:
                return False
            hashes = known["sha256"]
            return all(name in hashes and sha256_of(file) == hashes[name] for name, file in files.items())
        except (Damaged, OSError):
            return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other command makes the same product meanwhile. Under torchrun all ranks call it together.

        Raises:
            UserError: when one does.
        """
        busy = f"another command is making {self.target}: wait for it, or type out= with another name"
        lock = locked(lock_of(self.target), busy)
        with ExitStack() as held:
            raise_together(lambda: held.enter_context(lock) if rank() == 0 else None)
            yield

    def parts(self, n: int) -> Parts:
        """The n parts that the product is put together from."""
        return Parts(self.target, self.key, n)

    def forget(self) -> set[str]:
        """Removes the record of an older product under this name; the names of the files that it listed."""
        try:
            files = set(read_sealed(self.record, AGAIN)["sha256"])
        except Damaged:
            return set()
        self.record.unlink()
        return files

    def finish(self, files: Mapping[str, Path], more: Mapping[str, Any]) -> None:
        """Writes the record: the files with their SHA-256, and what else there is to say."""
        hashes = {name: sha256_of(file) for name, file in files.items()}
        content = {"key": self.key, "inputs": self.inputs, "sha256": hashes, **more, "finished": time.time()}
        write_sealed(self.record, content)


def record_of(target: Path) -> Path:
    """Where the record of a product lies."""
    return target.with_name(f"{target.stem}_record.json")


class Parts:
    """The parts of what will be `target`, in a hidden folder beside it: `.NAME.parts/00000012`.

    Parts of other inputs (another checkpoint, another scene) are thrown away. Under torchrun the ranks take turns at
    what is missing, and a part does not depend on who makes it.

    Args:
        target: the file that will be made.
        key: of its inputs.
        n: how many parts there are.
    """

    def __init__(self, target: Path, key: str, n: int) -> None:
        self.target, self.n = target, n
        self.folder = target.with_name(f".{target.name}.parts")
        raise_together(lambda: self._prepare(key) if rank() == 0 else None)
        done = {int(p.name) for p in self.folder.iterdir() if p.name.isdigit()} if rank() == 0 else None
        self.done: set[int] = broadcast(done)
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
                write_sealed(record, {"key": key})
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
        return str(read_sealed(record, AGAIN)["key"])
    except Damaged:
        return None


def read_record(target: Path) -> dict[str, Any]:
    """What the record of a product says. Raises Damaged."""
    return read_sealed(record_of(target), AGAIN)


def write_record(target: Path, content: Mapping[str, Any]) -> None:
    """Leaves a record beside a product that is made in one go."""
    write_sealed(record_of(target), {**content, "finished": time.time()})
