"""The meter, under a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rsssl.batch import Batch
from rsssl.engine import meter
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


def test_the_bar_shows_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    shown = Meter("simclr", 3, 10, visible=True)
    clock.now += 2
    shown.count(64)
    shown.figures(0.1234)
    shown._bar.refresh()
    shown.close()
    text = capsys.readouterr().err
    assert "simclr:  40%" in text and "4/10" in text and "loss 0.123 32 images/s data 0%" in text
