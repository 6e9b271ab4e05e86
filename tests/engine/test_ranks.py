"""Which process this is, also within `alone` and in the threads started there; and errors that all ranks share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.loader import prefetched
from rsssl.engine import ranks
from rsssl.engine.ranks import alone, rank, share, world_size


@pytest.fixture
def second_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host"}
    for name, value in (settings | {"MASTER_PORT": "123", "TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)


def test_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), world_size(), ranks.local_rank(), ranks.local_world_size()) == (0, 1, 0, 1)
    assert not ranks.launched_by_torchrun() and share(7) == slice(0, 7)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not ranks.launched_by_torchrun(), "one of torchrun's two names alone"


def test_one_of_several(second_of_four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (rank(), world_size(), ranks.local_rank(), ranks.local_world_size()) == (1, 4, 1, 2)
    assert ranks.launched_by_torchrun() and ranks.rendezvous() == ("host", 123, True)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert ranks.rendezvous() == ("host", 123, False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        parts.append(np.arange(7)[share(7)])
    assert np.array_equal(np.concatenate(parts), np.arange(7)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_also_in_the_thread_that_reads_ahead(second_of_four: None) -> None:
    """An evaluation on rank 0 alone trains with batches that a thread reads: a part of each would be lost."""

    def parts() -> list[slice]:
        return list(prefetched(share(8) for _ in range(3)))

    assert parts() == [slice(2, 4)] * 3
    with alone():
        with alone():
            pass
        assert (rank(), world_size()) == (0, 1) and parts() == [slice(0, 8)] * 3
    assert parts() == [slice(2, 4)] * 3
    with pytest.raises(KeyError), alone():
        raise KeyError
    assert world_size() == 4


def test_it_needs_no_torch() -> None:
    code = "import sys, rsssl.engine.ranks; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


TOGETHER = """
from rsssl.engine.distributed import collect, raise_together
from rsssl.errors import UserError

def work():
    if rank() == 1:
        raise UserError("the disk of rank 1 is full: type something")
    return "done"

from rsssl.engine.ranks import rank
assert raise_together(lambda: rank()) == rank()
try:
    raise_together(work)
except UserError as error:
    print(f"rank {rank()}: {error}", flush=True)
assert collect(rank()) == [0, 1, 2], "the ranks are still in step"
"""


def test_what_one_rank_fails_at_all_raise(workshop, tmp_path: Path) -> None:
    text = workshop.run(tmp_path, code=TOGETHER, ranks=3)
    assert all(f"rank {number}: the disk of rank 1 is full: type something" in text for number in range(3))
