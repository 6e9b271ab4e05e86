"""The benchmark's arithmetic and its table, on figures made up here: no peer is needed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("harness")


@pytest.fixture
def run(harness: Any) -> Any:
    return importlib.import_module("run")


def figure(harness: Any, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "name": "views",
        "peer": "other 1.0",
        "unit": "images/s",
        "ours": (900.0, 1000.0, 1400.0),
        "theirs": (100.0, 250.0, 200.0),
        "target": 7.0,
        "higher_is_better": True,
    }
    return harness.Figure(**(fields | changes))


def entry(harness: Any, name: str, **changes: Any) -> dict[str, Any]:
    """A module's record with one line of that name."""
    made = {
        "figures": [json.loads(json.dumps(vars(figure(harness, name=name, note="a | b"))))],
        "seconds": 60.0,
        "date": "2020-01-01",
        "command": "run",
        "machine": {"CPU": "one"},
        "peaks": {"flops": 5e10, "bytes": 2e9},
        "others": 0.02,
    }
    return made | changes


def test_a_rate_is_better_the_higher(harness: Any) -> None:
    rate = figure(harness, bound=4000.0)
    assert rate.ratios == (9.0, 4.0, 7.0)  # repeat by repeat, not median by median, which would be 5
    assert (rate.ratio, rate.reached, rate.of_bound) == (7.0, True, 0.25)


def test_a_time_is_better_the_lower(harness: Any) -> None:
    time = figure(
        harness, unit="s", ours=(2.0, 4.0), theirs=(10.0, 10.0), target=4.0, higher_is_better=False, bound=1.5
    )
    assert time.ratios == (5.0, 2.5)
    assert (time.ratio, time.reached, time.of_bound) == (3.75, False, 0.5)


def test_a_figure_without_a_peer_has_no_ratio(harness: Any) -> None:
    alone = figure(harness, theirs=(), peer="", target=0.0)
    assert (alone.ratios, alone.ratio, alone.reached) == ((), None, None)
    assert harness.row(alone)[2:] == ("-", "-", "-", "-", "-")


def test_the_row_says_median_and_range(harness: Any) -> None:
    assert harness.row(figure(harness, bound=4000.0)) == (
        "views",
        "1,000 (900 to 1,400) images/s",
        "200 (100 to 250) images/s (other 1.0)",
        "7.00 (4.00 to 9.00)",
        "7.00",
        "4,000 images/s (0.25)",
        "yes",
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (4.5678, "4.57"), (78.94, "78.9"), (1234.0, "1,230"), (0, "0"), (float("inf"), "inf")],
)
def test_three_digits(harness: Any, value: float, text: str) -> None:
    assert harness.short(value) == text


def test_ours_and_theirs_are_measured_in_turn(harness: Any) -> None:
    order: list[str] = []

    def measured(who: str) -> float:
        order.append(who)
        return float(len(order))

    found = harness.in_turn(lambda: measured("ours"), lambda: measured("theirs"), 2)
    assert (order, found) == (["ours", "theirs", "ours", "theirs"], ((1.0, 3.0), (2.0, 4.0)))


def test_what_fails_is_a_line_and_the_rest_goes_on(harness: Any) -> None:
    def absent(bench: Any) -> Iterator[Any]:
        """against a peer"""
        import a_peer_that_nobody_has.part  # type: ignore[import-not-found]  # noqa: F401

        yield figure(harness)

    def broken(bench: Any) -> Iterator[Any]:
        yield figure(harness, name="before")
        raise ValueError("out of paper")

    first, second, third = harness.attempts(None, absent, broken)
    assert harness.row(first)[:3] == (
        "against a peer",
        "-",
        f"a_peer_that_nobody_has is not installed: {harness.INSTALL}",
    )
    assert second.name == "before" and harness.row(third)[2] == "ValueError: out of paper" and third.reached is None


def test_a_child_returns_its_result_or_its_reason(harness: Any) -> None:
    assert harness.in_child("math", "no_such_function")["error"].startswith("AttributeError")
    result = harness.in_child("json", "loads", s='{"n": 3}')
    assert result["n"] == 3 and result["peak_mib"] >= 0


def test_the_record_keeps_the_lines_of_modules_not_run_again(harness: Any, run: Any, tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    run.save({"views": entry(harness, "old views"), "step": entry(harness, "old step")}, out)
    run.save({"views": entry(harness, "new views"), "loss": entry(harness, "new loss")}, out)
    rows = [cells.split(" | ")[0] for cells in out.read_text().splitlines() if " | 7.00 (4.00 to 9.00) | " in cells]
    assert rows == ["| new views", "| new loss", "| old step"]
    assert "3 minutes in all" in out.read_text() and "50 GFLOP/s" in out.read_text()


@pytest.fixture
def quiet(harness: Any) -> Any:
    return importlib.import_module("quiet")


WORK = """
import sys, time
while time.process_time() < 0.5:
    pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="others' work is counted by Linux alone")
def test_the_watch_counts_all_work_but_ours_and_that_of_our_children_that_have_ended(quiet: Any) -> None:
    watch, start, own = quiet.Watch(), time.perf_counter(), quiet._own_work()
    child = subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "done\n"
    beside = watch.others() * (time.perf_counter() - start)
    assert beside > 0.4
    child.communicate()
    assert quiet._own_work() - own > 0.45


def test_the_watch_tells_processors(quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("_all_work", [100.0, 112.0]), ("_own_work", [10.0, 16.0])):
        monkeypatch.setattr(quiet, name, iter(values).__next__)
    monkeypatch.setattr(quiet.time, "perf_counter", iter([0.0, 4.0]).__next__)
    others = quiet.Watch().others()
    assert others == 1.5 and "kept 1.50 processors busy" in quiet.busy(others) and not quiet.busy(0.05)


def test_what_was_measured_beside_others_is_not_recorded(
    harness: Any, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "RESULTS.md"
    assert run.save({"views": entry(harness, "alone"), "loss": entry(harness, "beside", others=0.5)}, out) == 1
    assert "loss is not recorded: other processes kept 0.50 processors busy" in capsys.readouterr().err
    assert "| alone |" in out.read_text() and "beside" not in out.read_text()


@pytest.mark.parametrize(
    ("machine", "flops", "said"),
    [("one", 5.9e10, ""), ("one", 3.5e10, "Doubtful: a matrix product is 0.70 times as fast"), ("two", 3.5e10, "")],
)
def test_lines_taken_at_other_peaks_than_the_last_record_are_marked(
    harness: Any, run: Any, tmp_path: Path, machine: str, flops: float, said: str
) -> None:
    out = tmp_path / "RESULTS.md"
    assert run.save({"views": entry(harness, "before", date="2020-01-01")}, out) == 0
    later = entry(harness, "later", date="2020-01-02", machine={"CPU": machine})
    assert run.save({"loss": later | {"peaks": {"flops": flops, "bytes": 2e9}}}, out) == 0
    text = out.read_text()
    assert ("| (doubtful) later |" in text, "| later |" in text) == (bool(said), not said)
    assert said in text and "| before |" in text
