"""Bits flipped in the files of a finished store and of a run folder: the same result, or an error that names a file."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRIALS = 4 * int(float(os.environ.get("RSSSL_FUZZ", "1")))
SMALL = (
    "backbone.name=resnet10t",
    "+backbone.kwargs.channels=[8,16,32,64]",
    "start=random",
    "pretrain.steps=2",
    "pretrain.minutes=null",
    "pretrain.batch_size=8",
    "tracker=csv",
    "ts=2",
    "hydra.run.dir=run",
)
VOLATILE = ("data", "evaluation_seconds", "finished", "pretrain", "run_folder", "seconds")  # times and places


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, two_colours: Callable[..., Path], workshop: Any
) -> tuple[Path, tuple[str, ...]]:
    """A folder with `images`, a finished `store` and a finished `run`; and the command that made them."""
    folder = tmp_path_factory.mktemp("store")
    command = ("dataset=folder", f"dataset.root={two_colours(folder / 'images')}", *SMALL)
    workshop.run(folder, *command)
    return folder, command


def flip(file: Path, draw: random.Random) -> str:
    """Flips one bit; says which."""
    content = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} of {file}"


def steady(results: Any) -> Any:
    """What results say but for times and places."""
    if isinstance(results, dict):
        return {k: steady(v) for k, v in results.items() if k not in VOLATILE}
    if isinstance(results, list):
        return [steady(v) for v in results]
    return round(results, 5) if isinstance(results, float) else results  # features of other batches are rounded so


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_flipped_bit_in_a_store_is_never_silently_another_result(
    finished: tuple[Path, tuple[str, ...]], tmp_path: Path, workshop: Any, trial: int
) -> None:
    origin, command = finished
    draw = random.Random(trial)
    shutil.copytree(origin / "store", tmp_path / "store")
    files = sorted(f for f in (tmp_path / "store").rglob("*") if f.is_file() and f.stat().st_size)
    damage = flip(files[trial % len(files)] if len(files) < TRIALS else draw.choice(files), draw)
    text = workshop.run(tmp_path, *command, exits=None)
    assert "Traceback" not in text, f"{damage}: {text}"
    results = tmp_path / "run" / "results.json"
    if not results.is_file():
        assert str(tmp_path / "store") in text, f"{damage}: {text}"  # a refusal names the place
        return
    expected = steady(json.loads((origin / "run" / "results.json").read_text()))
    assert steady(json.loads(results.read_text())) == expected, damage


@pytest.mark.parametrize("trial", range(TRIALS // 2))
def test_a_flipped_bit_in_a_run_folder_is_never_silently_another_prediction(
    finished: tuple[Path, tuple[str, ...]], tmp_path: Path, workshop: Any, trial: int
) -> None:
    origin, _ = finished
    draw = random.Random(trial)
    shutil.copytree(origin / "run", tmp_path / "run")
    predict = ("task=predict", f"images={origin / 'images'}", "checkpoint=run", "hydra.run.dir=predicting")
    store = {"RSSSL_STORE": str(origin / "store")}
    if not (origin / "right.csv").is_file():
        workshop.run(tmp_path, *predict, f"out={origin / 'right.csv'}", env=store)
    damage = flip(tmp_path / "run" / ("classifier.safetensors", "results.json")[trial % 5 == 4], draw)
    text = workshop.run(tmp_path, *predict, "out=made.csv", exits=None, env=store)
    assert "Traceback" not in text, f"{damage}: {text}"
    if (tmp_path / "made.csv").is_file():
        assert (tmp_path / "made.csv").read_bytes() == (origin / "right.csv").read_bytes(), damage
    else:
        assert "run/" in text, f"{damage}: {text}"
