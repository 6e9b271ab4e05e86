"""Getting a pack's files onto the disk, and their checksums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rsssl.engine.files import sync


@contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Sends on to the disk what is being written to `path`, so that the last fsync has little left to wait for.

    Raises the OSError of a write that failed at the disk, at its end.
    """
    over = Event()
    errors: list[OSError] = []

    def flush() -> None:
        while not over.wait(0.05):
            try:
                sync(path)
            except OSError as error:  # the system says it once: a later fsync would not hear of it
                errors.append(error)
                return

    thread = Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
