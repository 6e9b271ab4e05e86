"""The paper's three questions in small: each command does its runs once, and the tables say what the rows say."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "paper"
NAMES = ("runs", "signals", "protocol", "budget", "amount", "distance", "tables")
TINY = ["pretrain.image_size=32", "pretrain.batch_size=8", "workers=1"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """The experiment's files by their names, which stand for themselves as in a command."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture(scope="module")
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets of two classes of 15 tiles; the third is of another size and colour."""
    root, random = tmp_path_factory.mktemp("imagery"), np.random.default_rng(0)
    for name, side, colour in (("EuroSAT_RGB", 32, 90), ("AID", 32, 100), ("NWPU_RESISC45", 40, 180)):
        y, x = np.mgrid[:side, :side]
        for label, wave in (("across", x), ("along", y)):
            (root / name / label).mkdir(parents=True)
            for i in range(15):
                texture = 40 * np.sin(wave / 2 + random.uniform(0, 6))[..., None] + random.normal(0, 9, (side, side, 3))
                Image.fromarray((colour + texture).clip(0, 255).astype(np.uint8)).save(root / name / label / f"{i}.png")
    return root


@pytest.fixture
def command(
    module: Callable[[str], Any], imagery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dict[str, str]]]:
    """command("signals", "--only", "simclr"): does that question's runs, and gives the rows of its CSV."""

    def does(question: str, *arguments: str) -> list[dict[str, str]]:
        common = [
            "--data",
            str(imagery),
            "--out",
            str(tmp_path / "out"),
            "--csv",
            str(tmp_path / "csv"),
            "--seconds",
            "1",
        ]
        monkeypatch.setattr(sys, "argv", [question, *common, *arguments])
        module(question).main()
        with open(tmp_path / "csv" / f"{question}.csv", newline="") as file:
            return list(csv.DictReader(file))

    return does


def test_a_signal_and_its_protocols(command: Callable[..., Any], tmp_path: Path) -> None:
    small = [
        "--ts",
        "2",
        "--seeds",
        "0,1",
        *TINY,
        "dataset=folder",
        "start=random",
        "backbone=resnet18",
        "backbone.name=resnet10t",
    ]
    rows = command("signals", "--only", "simclr,none", *small)
    trained = [r for r in rows if r["method"] == "simclr"]
    assert {(r["start"], r["ts"], r["seed"]) for r in trained} == {
        (s, "2", k) for s in ("random", "imagenet") for k in "01"
    }
    for row in rows:
        found = json.loads((tmp_path / "out" / row["run"] / "results.json").read_text())
        assert (row["oa"], row["split"]) == (f"{found['oa']:.4f}", found["split_hash"])
        assert (row["artifact"] or None) == (found["pretrain"] or {"artifact": None})["artifact"]
    assert len({r["artifact"] for r in trained}) == 1, "here both starts are one, and a training is done once"
    with open(tmp_path / "csv" / "trainings.csv", newline="") as file:
        (training,) = csv.DictReader(file)
    with open(tmp_path / "csv" / "costs.csv", newline="") as file:
        cost = next(csv.DictReader(file))
    assert int(training["steps"]) == max(1, round(0.2 / float(cost["seconds_a_step"])))
    assert command("signals", "--only", "simclr,none", *small) == rows, "what is there is not done again"

    paper = command("protocol", "--only", "simclr", *small)
    assert [r["artifact"] for r in paper] == [r["artifact"] for r in trained], "the same networks"
    for row in paper:
        found = json.loads((tmp_path / "out" / row["run"] / "results.json").read_text())
        assert found["protocol"] == "paper" and 1 <= int(row["epoch"]) <= 200
        assert row["oa_last_epoch"] == f"{found['details']['oa_last_epoch']:.4f}"


def test_pools_of_several_sizes(command: Callable[..., Any], tmp_path: Path) -> None:
    small = [*TINY, "dataset=folder", "start=random", "backbone=resnet18", "backbone.name=resnet10t", "ssl=simclr"]
    command("amount", "--pools", "8,24", "--ts", "2", "--seeds", "0", *small)
    with open(tmp_path / "csv" / "trainings.csv", newline="") as file:
        trainings = list(csv.DictReader(file))
    assert {(r["images"], r["steps"]) for r in trainings} == {("24", "1"), ("8", "1")}


def test_from_one_dataset_to_another(command: Callable[..., Any], imagery: Path, tmp_path: Path) -> None:
    small = [*TINY, "start=random", "backbone=resnet18", "backbone.name=resnet10t"]
    rows = command("distance", "--only", "random,none", "--ts", "2", "--seeds", "0", *small)
    sources = ("none", "EuroSAT_RGB", "AID", "NWPU_RESISC45", "mixture")
    there = {(r["source"], r["target"]) for r in rows if r["start"] == "random"}
    assert there == {(s, t) for s in sources for t in sources[1:-1]}
    tests = {}
    for name in sources[1:-1]:
        run = next(r["run"] for r in rows if (r["source"], r["target"]) == ("none", name))
        with open(tmp_path / "out" / run / "predictions.csv", newline="") as file:
            tests[name] = {imagery / name / r["image"] for r in csv.DictReader(file)}
        pool = {p.resolve() for p in (tmp_path / "out" / "pools" / name).iterdir()}
        assert len(pool) == 24 and len(tests[name]) == 6 and not pool & tests[name]
    mixed = {p.resolve() for p in (tmp_path / "out" / "pools" / "mixture").rglob("*.png")}
    assert len(mixed) == 24 and not any(mixed & images for images in tests.values())
    with open(tmp_path / "csv" / "distances.csv", newline="") as file:
        far = {(r["source"], r["target"]): float(r["bands"]) for r in csv.DictReader(file)}
    assert far["AID", "AID"] == pytest.approx(0, abs=1e-3)
    assert far["EuroSAT_RGB", "AID"] < far["EuroSAT_RGB", "NWPU_RESISC45"], "it is of another colour"


def test_the_distance_of_two_normal_distributions(module: Callable[[str], Any]) -> None:
    frechet, random = module("distance").frechet, np.random.default_rng(0)
    one, other = random.normal(0, 1, (200_000, 2)), random.normal([3, 0], [2, 5], (200_000, 2))
    assert frechet(one, other) == pytest.approx(9 + 1 + 16, rel=0.02)  # (m - n)^2 + (s - t)^2 in each axis


def test_puzzles_whose_answer_can_be_seen(command: Callable[..., Any], tmp_path: Path) -> None:
    small = ["--ts", "2", "--seeds", "0", "--steps", "3", *TINY, "pretrain.image_size=48"]
    command("budget", "--only", "rotation", *small, "dataset=folder", "protocol=clean")
    with open(tmp_path / "csv" / "trainings.csv", newline="") as file:
        rows = {r["network"]: r for r in csv.DictReader(file)}
    easy = [r for name, r in rows.items() if name.startswith("easy-")]
    assert len(easy) == 4 and all(0 <= float(r["solved_last"]) <= 1 for r in easy)
