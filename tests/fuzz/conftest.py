"""The fuzz: random input of fixed seeds, a few seconds in the suite; RSSSL_FUZZ=100 takes a hundred times as many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from random import Random

import pytest


@pytest.fixture
def cases() -> Callable[[int], Iterator[Random]]:
    """cases(n): n times RSSSL_FUZZ generators of random numbers, the same ones each time."""
    times, first = (float(os.environ.get(name, usual)) for name, usual in (("RSSSL_FUZZ", 1), ("RSSSL_FUZZ_SEED", 0)))
    return lambda n: (Random(seed) for seed in range(int(first), int(first) + round(n * times)))
