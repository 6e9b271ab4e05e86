"""The meter, under a clock that is set by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from rsssl.batch import Batch
from rsssl.engine import meter, progress
from rsssl.engine.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_images_per_second_and_the_share_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)

    def slow() -> Iterator[Batch]:
        while True:
            clock.now += 1  # a second to read a batch
            yield Batch(torch.arange(8), 0, torch.empty(0))

    batches, measured = slow(), Meter("test", 0, 10, visible=False)

    def step() -> float:
        assert len(measured.wait_for(batches).ids) == 8
        clock.now += 3  # three to learn from it
        return measured.count(16)

    assert [step(), step()] == [4, 4]
    assert measured.figures(0.5) == {"images_per_second": 32 / 8, "data_share": 2 / 8}
    assert step() == 4
    assert measured.figures(0.5) == {"images_per_second": 16 / 4, "data_share": 1 / 4}, "the first window counts again"
    step()
    clock.now += 50  # a probe
    measured.restart()
    assert step() == 54, "the training's own seconds include it"
    assert measured.figures(0.5) == {"images_per_second": 16 / 4, "data_share": 1 / 4}
    measured.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(meter, "time", made)
    monkeypatch.setattr(progress, "time", made)
    return made


def test_the_figures_stand_beside_the_progress(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shown = Meter("simclr", 3, 10, visible=True)
    clock.now += 2
    shown.count(64)
    shown.figures(0.1234)
    clock.now += 38
    shown.count(64)
    shown.close()
    assert caplog.messages == [
        "simclr: 5 of 10 steps (50 %), 3.0 steps/min, 1 min 40 s left; loss 0.123, 32 images/s, 0 % waiting for data",
        "simclr: 2 steps in 40 s, 3.0 steps/min",
    ]


def steps(measured: Meter, clock: Clock, *seconds: float, pixels: int = 64) -> None:
    for each in seconds:
        clock.now += each
        measured.count(8, pixels)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_steps_that_become_slow_are_said_once(
    threads: str, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usual is 1 s for 64 pixels, 4 s for 256, which is no slower; the first one warms up."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    measured = Meter("simclr", 0, 1000, visible=True)
    steps(measured, clock, 60.0, *[1.0] * 10)
    steps(measured, clock, *[4.0] * 20, pixels=256)
    steps(measured, clock, *[3.9] * 20)
    clock.now += 500  # a probe
    measured.restart()
    steps(measured, clock, *[5.0] * 5, 1.0, *[5.0] * 6)
    assert not caplog.records, "neither larger views, nor a probe, nor 30 s of slow steps and no more"
    steps(measured, clock, 12.0)
    (warning,) = caplog.messages
    assert "simclr: a step takes 12 s now, 12 times as long as the first ones" in warning
    assert ("OMP_NUM_THREADS=1" in warning) == (threads != "1"), "what is set already is not advised"
    steps(measured, clock, *[50.0] * 9)
    assert len(caplog.messages) == 1


def test_other_ranks_say_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    measured = Meter("simclr", 0, 100, visible=False)
    steps(measured, clock, *[1.0] * 11, *[50.0] * 9)
    assert not caplog.records
