"""File handles, of which a process has few: what needs one is made when it is used, and let go of when others are."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

LIMIT = 128  # handles that all packs of a process keep together; the usual limit of a process is 1,024
FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
T = TypeVar("T")


class Handle(Generic[T]):
    """Something that keeps a file open: made by `make` when it is called for, and again when it was let go of since.

    It is let go of when LIMIT others have been made since. Whoever still holds it may use it: it is closed when nobody
    does. Threads may call it, and processes that were forked.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None

    def __call__(self) -> T:
        """What `make` makes."""
        value = self._value
        if value is None:
            value = self._value = self._make()
            _made.append(weakref.ref(self))
            if len(_made) > LIMIT and (oldest := _made.popleft()()) is not None:  # no more are taken than were added
                oldest._value = None
        return value


_made: deque[weakref.ref[Handle]] = deque()  # what has a handle, in the order in which they were made


class Descriptor:
    """A file that is open for reading, until nobody holds this object.

    Attributes:
        number: the system's number of it, for `os.pread`.
    """

    number = -1

    def __init__(self, path: str) -> None:
        self.number = os.open(path, FLAGS)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)
