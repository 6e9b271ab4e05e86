"""File handles, of which a process has few: what needs one is made when it is used, and let go of when others are."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

LIMIT = 128  # handles that all packs of a process keep together; the usual limit of a process is 1,024
T = TypeVar("T")
_recent: OrderedDict[int, weakref.ref[Handle]] = OrderedDict()  # what has a handle, the one used last at the end
_lock = threading.Lock()


class Handle(Generic[T]):
    """Something that keeps a file open: made by `make` when it is called for, and again when it was let go of since.

    It is let go of when LIMIT others have been called for since. Whoever still holds it may use it: it is closed when
    nobody does. Threads may call it, and processes that were forked.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._key, self._self = make, id(self), weakref.ref(self)
        self._value: T | None = None

    def __call__(self) -> T:
        """What `make` makes."""
        value = self._value
        if value is None:
            value = self._make()
        with _lock:
            self._value = value
            _recent[self._key] = self._self
            _recent.move_to_end(self._key)
            while len(_recent) > LIMIT:
                if (oldest := _recent.popitem(last=False)[1]()) is not None:
                    oldest._value = None
        return value


class Descriptor:
    """A file that is open for reading, until nobody holds this object.

    Attributes:
        number: the system's number of it, for `os.pread`.
    """

    number = -1

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have had it when it forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
