"""Threads that wait for work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def lasting(threads: int, name: str) -> Callable[[], ThreadPoolExecutor]:
    """So many threads, begun when they are first asked for; a forked process, which has none of its parent's, begins
    its own."""

    @cache
    def begun() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(threads, name)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begun.cache_clear)
    return begun
