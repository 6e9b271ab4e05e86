"""Threads that wait for work, and compiled loops over samples on as many as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

SHARES = 4  # for each thread


def lasting(threads: int, name: str) -> Callable[[], ThreadPoolExecutor]:
    """So many threads, begun when they are first asked for; a forked process, which has none of its parent's, begins
    its own."""

    @cache
    def begun() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(threads, name)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begun.cache_clear)
    return begun


@cache
def _helpers(n: int) -> Callable[[], ThreadPoolExecutor]:
    return lasting(n, "loops")


def over_samples(kernel: Callable[..., None], n: int, *arguments: Any) -> None:
    """kernel(*arguments, start, stop) for shares of n samples, on as many threads as torch uses."""
    import torch  # those who only want threads do without

    workers = min(torch.get_num_threads(), n)
    count = workers * SHARES if workers > 1 else 1
    shares = iter(list(pairwise(n * i // count for i in range(count + 1))))  # taken in turn: a slow core gets fewer

    def work() -> None:
        for share in shares:
            kernel(*arguments, *share)

    others = [_helpers(workers - 1)().submit(work) for _ in range(workers - 1)]
    work()
    for other in others:
        other.result()
