"""Compiled loops over samples, on as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch

SHARES = 4  # for each thread


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="loops")


def over_samples(kernel: Callable[..., None], n: int, *arguments: Any) -> None:
    """kernel(*arguments, start, stop) for shares of n samples, on as many threads as torch uses."""
    workers = min(torch.get_num_threads(), n)
    count = workers * SHARES if workers > 1 else min(n, 1)
    shares = iter(list(pairwise(n * i // count for i in range(count + 1))))  # taken in turn: a slow core gets fewer

    def work() -> None:
        for share in shares:
            kernel(*arguments, *share)

    others = [_pool(workers - 1).submit(work) for _ in range(workers - 1)]
    work()
    for other in others:
        other.result()
