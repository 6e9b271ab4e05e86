"""Files that are either whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from rsssl.errors import UserError
from rsssl.records import sealed

log = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when all is written: a reader sees the old one or the new
    one.

    Raises:
        UserError: when the disk is full or the folder cannot be written; the old file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise explain_os_error(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that a reader sees the old file or the new one, never a part. Raises what `atomic` raises."""
    with atomic(path) as file:
        file.write(data)


class HashedFile:
    """A file to write to whose SHA-256 is known in the end; `error` is what the system said when a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk: a rename then survives a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and writes their names by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(
    error: OSError, path: Path, option: str = "paths.store=DIR or hydra.run.dir=DIR", needed: int | None = None
) -> UserError:
    """Why `path` cannot be written, as a sentence.

    Args:
        error: what the system said.
        path: the file or folder that was to be written.
        option: what to type for another place.
        needed: bytes that it takes, where that is known.
    """
    existing = next((p for p in [path, *path.parents] if p.exists()), Path("/"))
    if error.errno in NO_SPACE:
        room = f"{shutil.disk_usage(existing).free / 2**20:,.1f} MiB free"
        room += f", {needed / 2**20:,.1f} MiB needed" if needed else ""
        return UserError(f"no space left to write {path} ({room}): free some, or type {option} on a larger disk")
    return UserError(
        f"{path} cannot be written ({error.strerror or error}): see ls -ld '{existing}' and df -h, "
        f"or type {option} in a folder of yours"
    )


def explain_os_error(error: OSError, path: Path) -> UserError | OSError:
    """`write_error` for a full disk or a folder without write permission; any other error unchanged."""
    return write_error(error, path) if error.errno in (*NO_SPACE, *NOT_ALLOWED) else error


def lock_of(target: Path) -> Path:
    """The hidden file that is locked by the process that makes, or removes, a file or folder. It stays: another process
    may wait for it, and would wait for a file that nobody sees any more."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def locked(lock: Path, busy: str | None = None, waiting: str = "") -> Iterator[None]:
    """An exclusive lock on a file; the system takes it away from a process that has died.

    Args:
        lock: the file; its folder is made.
        busy: the message of the error when another process has it; None to wait for that process.
        waiting: what to log when there is something to wait for.

    Raises:
        UserError: when another process has it and `busy` is given, or the file cannot be made.
    """
    handle = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle.acquire(timeout=0.2 if busy is None else 0)
    except Timeout:
        if busy is not None:
            raise UserError(busy) from None
        if waiting:
            log.info(waiting)
        handle.acquire()
    except OSError as error:
        raise explain_os_error(error, lock) from error
    try:
        yield
    finally:
        handle.release()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that others read too."""
    write_atomic(path, json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """The content as `write_json` writes it."""
    return (json.dumps(content, indent=1, sort_keys=False) + "\n").encode()


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that `rsssl.records.read_sealed` knows to be what was written."""
    write_json(path, sealed(content))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
