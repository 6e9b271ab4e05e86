"""Trainings killed many times in a row, at any moment, end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from rsssl.engine.tracking import read_metrics

FAMILIES = {
    "simclr": "none",
    "moco_v2": "queue",
    "byol": "EMA",
    "dino": "centre",
    "swav": "prototypes",
    "marta_gan": "GAN",
    "mae": "masked",
}
STEPS = 24
KILLS = {"simclr": 10}  # what differs between families is their state: for the others 5 will do
TIMED = ("images_per_second", "data_share")  # metrics that are measured with a clock


def numbers(folder: Path) -> list[tuple[str, ...]]:
    rows = read_metrics(folder / "metrics.csv")
    return [(r["step"], r["epoch"], r["name"], r["value"]) for r in rows if r["name"] not in TIMED]


@pytest.mark.parametrize("name", FAMILIES)
def test_killed_many_times_and_resumed_is_bit_equal_to_uninterrupted(
    name: str, workshop, pack_of_tiles: Path, tmp_path: Path
) -> None:
    draw, kill = random.Random(name), KILLS.get(name, 5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    warm = [name, str(pack_of_tiles)]
    workshop.run(tmp_path, code="pass", warm=warm)
    begin = time.monotonic()
    workshop.run(tmp_path, warm=warm, code=f"train({name!r}, {str(pack_of_tiles)!r}, {str(whole)!r}, {STEPS})")
    took = time.monotonic() - begin
    kills = 0
    while not (killed / "final.pt").exists():
        (pid,) = workshop.start(
            tmp_path, warm=warm, code=f"train({name!r}, {str(pack_of_tiles)!r}, {str(killed)!r}, {STEPS})"
        )
        if kills < kill:
            before = {f.name for f in killed.glob("checkpoint-*.json")}
            deadline = time.monotonic() + 60
            # some time after its first new checkpoint, in the middle of anything
            while {f.name for f in killed.glob("checkpoint-*.json")} <= before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.03 * took))
            os.kill(pid, signal.SIGKILL)
        (code,) = workshop.wait()
        kills += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), workshop.log.read_text()[-3000:]
    assert kills == kill
    a, b = (torch.load(f / "final.pt", weights_only=True) for f in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert numbers(whole) == numbers(killed), "rows of metrics are lost or stand twice"
    assert [r[0] for r in numbers(killed) if r[2] == "loss"] == [str(s + 1) for s in range(STEPS)]
