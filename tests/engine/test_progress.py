"""How far a step is, under a clock that is set by hand: lines in a log, a bar in a terminal, rank 0 alone."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path

import pytest

import rsssl
from rsssl.engine import progress
from rsssl.engine.progress import Progress, duration, followed, rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    caplog.set_level(logging.INFO)
    return made


def test_a_log_has_a_line_a_while_and_one_in_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    """By hand: 6,000 windows in 30 s are 200 a second, the 24,000 left take 2 minutes; then 12,000 in 30 s, 400."""
    with Progress("mapping coast", 40_000, "windows", done=10_000, every=30) as shown:
        for _ in range(10):
            clock.now += 3
            shown.update(600)
        shown.describe("loss 0.5")
        for _ in range(5):
            clock.now += 6
            shown.update(2_400)
        clock.now += 10
        shown.update(12_000)
    assert caplog.messages == [
        "mapping coast: 16,000 of 40,000 windows (40 %), 200 windows/s, 2 min left",
        "mapping coast: 28,000 of 40,000 windows (70 %), 400 windows/s, 30 s left; loss 0.5",
        "mapping coast: 30,000 windows in 1 min 10 s, 429 windows/s",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_short_step_and_a_failed_one_say_nothing_in_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in followed(range(3), "short", "steps"):
        clock.now += 9
    with pytest.raises(KeyError), Progress("failed", 2, "steps") as shown:
        clock.now += 29
        shown.update()
        clock.now += 29
        raise KeyError
    assert caplog.messages == []


def test_without_a_total_nothing_is_left_and_bytes_are_megabytes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    stream = followed(iter("abc"), "reading", "images")
    next(stream)
    clock.now += 60
    assert list(stream) == ["b", "c"]
    with Progress("fetching a.zip", 80_000_000, "bytes", done=20_000_000) as shown:
        clock.now += 40
        shown.update(30_000_000)
    assert caplog.messages == [
        "reading: 1 images, 1.0 images/min",
        "reading: 3 images in 1 min, 3.0 images/min",
        "fetching a.zip: 50.0 of 80.0 MB (62 %), 45 MB/min, 40 s left",
        "fetching a.zip: 30.0 MB in 40 s, 45 MB/min",
    ]


def test_where_nobody_has_set_up_a_log_lines_go_to_stderr(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress.log, "hasHandlers", lambda: False)
    with Progress("packing", 2, "images", every=1) as shown:
        clock.now += 1
        shown.update()
    out, err = capsys.readouterr()
    assert err == "packing: 1 of 2 images (50 %), 1.0 images/s, 1 s left\n" and not out


def test_a_terminal_has_a_bar_that_goes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("mapping", 10, "windows", done=3) as shown:
        shown._bar.delay = 0  # it has been there for long
        clock.now += 60
        shown.describe("loss 0.5")
        shown.update(2)
        shown._bar.refresh()
        text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "mapping:  50%" in text and "5/10" in text and "windows/s" in text and "loss 0.5" in text
    assert sys.stderr.getvalue().endswith("\r"), "an empty line is left"  # type: ignore[attr-defined]
    assert caplog.messages == ["mapping: 2 windows in 1 min, 2.0 windows/min"]


def test_one_rank_alone_speaks(clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in followed(range(3), "packing", "images"):
        clock.now += 60
    assert not caplog.messages and not sys.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("n", "seconds", "said"),
    [
        (4100, 10, "410 steps/s"),
        (15, 10, "1.5 steps/s"),
        (5, 10, "30 steps/min"),
        (1, 600, "6.0 steps/h"),
        (0, 30, "0.0 steps/h"),
    ],
)
def test_rates(n: int, seconds: float, said: str) -> None:
    assert rate(n, seconds, "steps") == said


def test_durations() -> None:
    said = [duration(s) for s in (0.4, 59.4, 60, 67, 3599.6, 7500, 86_400)]
    assert said == ["0 s", "59 s", "1 min", "1 min 7 s", "1 h", "2 h 5 min", "24 h"]


def test_nothing_else_makes_bars() -> None:
    sources = Path(rsssl.__file__).parent.rglob("*.py")
    importers = [file.name for file in sources if re.search(r"\btqdm\b", file.read_text())]
    assert importers == ["progress.py"]
