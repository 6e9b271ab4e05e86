"""Loops over samples on several threads: every sample once, in a forked process too."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from rsssl.threads import over_samples


def count(seen: np.ndarray, start: int, stop: int) -> None:
    seen[start:stop] += 1


def counted(n: int) -> bool:
    seen = np.zeros(n, int)
    over_samples(count, n, seen)
    return bool((seen == 1).all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_every_sample_is_done_once_in_a_forked_process_too(n: int) -> None:
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert counted(n)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a pool without its threads would wait for ever
            os._exit(0 if counted(n) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(usual)
