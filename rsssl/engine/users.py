"""Which artefacts of a store are in use, so that nobody removes them under a command that works.

    <store>/.users/<host>-<pid>-<random>.txt     names, a line each, the artefacts that a process has asked for
    <store>/.users/<host>-<pid>-<random>.lock    locked as long as that process lives

The system takes the lock away from a process that has died; its files are then thrown away. A process that asks for an
artefact says so first, and looks whether it is there second; who removes one hides it first, and looks here second: one
of the two sees the other.
"""

from __future__ import annotations

import atexit
import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".users"
MOST = 8  # stores that a process is known to; each takes a file handle


class User:
    """This process, as a user of one store.

    Raises:
        OSError: when nothing can be written there.
    """

    def __init__(self, root: Path) -> None:
        self.names, self.pid = set[str](), os.getpid()
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        while True:
            stem = root / FOLDER / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self.lock, self.file = FileLock(f"{stem}.lock", thread_local=False), Path(f"{stem}.txt")
            self.lock.acquire()
            if Path(self.lock.lock_file).is_file():  # else somebody has thrown it away before it was locked
                return

    def add(self, name: str) -> None:
        if name not in self.names:
            with open(self.file, "a") as file:
                file.write(f"{name}\n")
            self.names.add(name)

    def leave(self) -> None:
        if self.pid != os.getpid():  # a copy that a fork has made
            return
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()


_own: dict[Path, User] = {}


def in_use(folder: Path) -> None:
    """From now on, and as long as this process lives, an artefact is not removed by others."""
    root = folder.parent.parent
    with suppress(OSError):  # a store may be for reading only
        if root not in _own or _own[root].pid != os.getpid():
            while len(_own) >= MOST:
                _own.pop(next(iter(_own))).leave()
            _own[root] = User(root)
        _own[root].add(f"{folder.parent.name}/{folder.name}")


def used_by_others(root: Path) -> dict[str, str]:
    """Of a store, the artefacts (stage/hash) that other processes use, and one of these each; forgets the dead."""
    own = Path(_own[root].lock.lock_file) if root in _own else None
    used: dict[str, str] = {}
    for file in (root / FOLDER).glob("*.lock"):
        if file == own:
            continue
        listed, lock = file.with_suffix(".txt"), FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            host, pid, _ = file.stem.rsplit("-", 2)
            names = listed.read_text().split() if listed.is_file() else []
            used |= dict.fromkeys(names, f"process {pid} on {host}")
            continue
        except OSError:
            continue
        listed.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        lock.release()
    return used


@atexit.register
def _leave() -> None:
    while _own:
        _own.popitem()[1].leave()
