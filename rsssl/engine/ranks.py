"""Which of torchrun's processes this is; a rank is the number of one of them. Needs no torch.

Only this file reads what torchrun writes into the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_alone = ContextVar("alone", default=False)


def rank() -> int:
    """This process's number among all; 0 for a single process."""
    return 0 if _alone.get() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes work together; 1 for a single process."""
    return 1 if _alone.get() else int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number among those of its machine, which is also the number of its accelerator."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes of this machine work together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launched_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rendezvous() -> tuple[str, int, bool]:
    """Host and port of the store where the processes meet, and whether torchrun keeps that store (else rank 0 does)."""
    kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), kept_by_torchrun


def share(n: int) -> slice:
    """This rank's part of n things in a row: the parts of ranks 0, 1, ... one after another are the whole."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


@contextmanager
def alone() -> Iterator[None]:
    """Within it, this process is one of one: for work that the other ranks wait for.

    A thread that is started within it has to run in `contextvars.copy_context()`, or it counts all ranks.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
