"""Which of torchrun's processes this is: from the environment, so that it costs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_alone = False


def rank() -> int:
    """This process's number; 0 for a single process."""
    return 0 if _alone else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes work together; 1 for a single process."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def share(n: int) -> slice:
    """This rank's part of n things in a row: the parts of ranks 0, 1, ... one after another are the whole."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


@contextmanager
def alone() -> Iterator[None]:
    """Within it, this process is one of one: for work that the others wait for."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before
