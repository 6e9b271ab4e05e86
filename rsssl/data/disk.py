"""Getting a pack's files onto the disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from rsssl.engine.files import sync


@contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Sends to the disk, again and again, what is being written to `path`: the last fsync then has little to wait for.

    Raises:
        OSError: at its end, when a write failed at the disk. The system reports that to one fsync only.
    """
    over = Event()

    def flush() -> None:
        while not over.wait(0.05):
            sync(path)

    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(flush)
        try:
            yield
        finally:
            over.set()
    flushed.result()
