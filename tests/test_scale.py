"""The record of a billion tiles: its arithmetic, worked out another way, and its order simulated at a small size."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rsssl import rng

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "scale"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scale_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_rates_follow_from_the_published_one() -> None:
    rates = module("needs").rates()
    # 64 pixels are 49 / 4 times fewer than 224, and an image is seen twice; the H100's peak is 3.17 times the A100's
    assert rates["A100"] == pytest.approx(2470 * 49 / 8)
    assert rates["H100"] == pytest.approx(2470 * 49 / 8 * 989 / 312)


def test_a_ring_sends_nearly_everything_once_or_twice() -> None:
    needs = module("needs")
    seconds = needs.gather(64e6, 1e9)  # 63 pieces of 1 MB at 0.8 GB/s, 63 hops of 5 microseconds
    assert seconds == pytest.approx(63 * 1.25e-3 + 63 * 5e-6)
    assert needs.total(64e6, 1e9) == pytest.approx(2 * seconds)


def test_the_record_holds_the_tables_of_its_results() -> None:
    text = (FOLDER / "README.md").read_text()
    tables = module("needs").report(json.loads((FOLDER / "results.json").read_text()))
    rows = [line for line in tables.splitlines() if "|" in line]
    assert len(rows) > 30
    assert [row for row in rows if row not in text] == []


def test_the_simulated_order_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    order = module("order")
    monkeypatch.setattr(rng, "SORTED", 1000)
    monkeypatch.setattr(order, "QUICK", 300_001)
    monkeypatch.setattr(order, "BATCH", 1024)
    found = order.measure(True, lambda share, text: None)
    assert (found["steps"], found["left_out"], found["checked_steps"]) == (292, 993, 20)


def test_the_simulation_sees_an_id_that_comes_twice() -> None:
    order, seen = module("order"), np.zeros(4, np.uint8)
    assert order.mark(seen, np.array([0, 9, 31])) == 0
    assert order.mark(seen, np.array([30, 9])) == 1
    assert seen.tolist() == [1, 2, 0, 192]
