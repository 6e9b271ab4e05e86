"""The cores that are there and free, read from files as Linux writes them, and the threads that follow from it."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsssl.engine import cores


def test_a_quota_of_this_group_or_one_above_it_counts(tmp_path: Path) -> None:
    """In a container the group is the root of what it sees; in a cluster's job a step lies below the job."""
    process = tmp_path / "process"
    process.write_text("1:name=systemd:/other\n0::/slurm/job_7/step_0\n")
    job = tmp_path / "groups" / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    groups = tmp_path / "groups"
    assert cores.quota(groups, process) == math.inf
    (job / "step_0" / "cpu.max").write_text("max 100000\n")
    (job / "cpu.max").write_text("250000 100000\n")
    (groups / "slurm" / "cpu.max").write_text("800000 100000\n")
    assert cores.quota(groups, process) == 2.5
    (tmp_path / "cpu.max").write_text("1 100000\n")
    assert cores.quota(groups, process) == 2.5, "above the groups' own folder lies something else"
    assert cores.quota(groups, tmp_path / "missing") == math.inf


@pytest.mark.parametrize(("bound", "quota", "expected"), [(8, math.inf, 8), (8, 2.5, 2), (8, 0.3, 1), (2, 64.0, 2)])
def test_cores_are_those_it_is_bound_to_or_fewer(
    bound: int, quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "bound", lambda: set(range(bound)))
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.cores() == expected


def test_work_is_that_of_these_cores_alone(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 5000 700 4 5 6 0 0\ncpu1 9999 0 0 0 0 0 0 0 0 0\n"
        "cpu10 1000 0 0 0 0 0 0 0 7 0\nintr 12 13\n"
    )
    assert cores.busy({0, 10}, tmp_path / "stat") == (165 + 1000) / ticks
    assert cores.busy({0}, tmp_path / "missing") == 0


def test_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window of 2 s the cores worked for 1.7 s, of which 0.5 s are this process's: 0.6 cores."""
    worked, own, now = iter([10.0, 11.7]), iter([3.0, 3.5]), iter([0.0, 2.0])
    monkeypatch.setattr(cores, "busy", lambda of: next(worked))
    clock = {"monotonic": lambda: next(now), "process_time": lambda: next(own), "sleep": lambda seconds: None}
    monkeypatch.setattr(cores, "time", SimpleNamespace(**clock))
    assert cores.others() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("usual", "bound", "allowed", "taken", "threads", "said"),
    [
        (2, 2, 2, 0.97, 1, "1 of 2 cores is busy with other work: 1 thread; OMP_NUM_THREADS=2 takes both"),
        (2, 2, 2, 5.0, 1, "1 of 2 cores is busy with other work: 1 thread; OMP_NUM_THREADS=2 takes both"),
        (2, 2, 2, 0.3, 2, ""),
        (8, 16, 16, 4.0, 8, ""),  # of two threads a core torch uses one
        (16, 16, 16, 4.2, 12, "4 of 16 cores are busy with other work: 12 threads; OMP_NUM_THREADS=16 takes all"),
        (64, 64, 4, 9.0, 4, "this process may use 4 of 64 cores: 4 threads; OMP_NUM_THREADS=64 takes all"),
    ],
)
def test_threads_are_as_many_as_cores_are_free(
    usual: int,
    bound: int,
    allowed: int,
    taken: float,
    threads: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = [usual]
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(cores, "bound", lambda: set(range(bound)))
    monkeypatch.setattr(cores, "cores", lambda: allowed)
    monkeypatch.setattr(cores, "others", lambda: taken)
    with caplog.at_level(logging.INFO):
        cores.choose_threads.__wrapped__()
    assert chosen[-1] == threads and caplog.messages == ([said] if said else [])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail("who has chosen is overruled"))
    chosen[:] = [usual]
    cores.choose_threads.__wrapped__()


@pytest.mark.parametrize(("before", "there", "threads"), [(1, 2, 1), (2, 2, 2), (0, 2, 3), (8, 2, 3)])
def test_a_resumed_training_has_as_many_threads_as_before(
    before: int, there: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cores", lambda: there)
    usual = torch.get_num_threads()
    try:
        for chosen, expected in ((True, 3), (False, threads)):  # where somebody has chosen nothing changes
            torch.set_num_threads(3)
            if not chosen:
                monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            cores.keep_threads(before)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(usual)


def test_threads_sleep_while_they_wait_unless_somebody_has_chosen() -> None:
    environment: dict[str, str] = {}
    cores.let_threads_sleep(environment)
    assert environment == {"GOMP_SPINCOUNT": cores.SPINS}
    for chosen in ({"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        environment = dict(chosen)
        cores.let_threads_sleep(environment)
        assert environment == chosen
