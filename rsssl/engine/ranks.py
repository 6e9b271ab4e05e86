"""Which of torchrun's processes this is: from the environment, so that it costs no torch."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together; 1 for a single process."""
    return int(os.environ.get("WORLD_SIZE", "1"))
