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
from scipy.stats import spearmanr

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "paper"
NAMES = ("runs", "tables", "signals", "seeds", "protocol", "budget", "amount", "distance", "plots", "record")
NETWORK = ["start=random", "backbone=resnet18", "backbone.name=resnet10t", "+backbone.kwargs.channels=[8,16,32,64]"]
TINY = ["pretrain.image_size=32", "pretrain.batch_size=8", "workers=1"]


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


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
        where = {"--data": imagery, "--out": tmp_path / "out", "--csv": tmp_path / "csv", "--seconds": 0.2}
        common = [str(word) for pair in where.items() for word in pair]
        monkeypatch.setattr(sys, "argv", [question, *common, *arguments])
        monkeypatch.setattr(module("runs"), "SHORT", 1)
        monkeypatch.setattr(module("runs"), "LONG", 2)
        module(question).main()
        file = tmp_path / "csv" / f"{question}.csv"
        return read(file) if file.is_file() else []

    return does


def test_a_signal_and_its_protocols(command: Callable[..., Any], tmp_path: Path) -> None:
    small = ["--ts", "2", "--seeds", "0,1", *TINY, *NETWORK, "dataset=folder"]
    rows = command("signals", "--only", "simclr", *small)
    assert {(r["start"], r["ts"], r["seed"]) for r in rows} == {
        (s, "2", k) for s in ("random", "imagenet") for k in "01"
    }
    for row in rows:
        found = json.loads((tmp_path / "out" / row["run"] / "results.json").read_text())
        assert (row["oa"], row["split"]) == (f"{found['oa']:.4f}", found["split_hash"])
        assert row["artifact"] == found["pretrain"]["artifact"]
    trainings, costs = read(tmp_path / "csv" / "trainings.csv"), read(tmp_path / "csv" / "costs.csv")
    steps = {t["artifact"]: int(t["steps"]) for t in trainings}
    for start in ("random", "imagenet"):
        (cost,) = (float(c["seconds_a_step"]) for c in costs if f"ssl=simclr start={start}" in c["recipe"])
        (artifact,) = {r["artifact"] for r in rows if r["start"] == start}
        assert steps[artifact] == max(1, round(0.2 / cost)), "a training is done once, for the steps that the time buys"
    assert command("signals", "--only", "simclr", *small) == rows
    assert read(tmp_path / "csv" / "trainings.csv") == trainings, "what is there is not done again"

    paper = command("protocol", "--only", "simclr", *small)
    assert [r["artifact"] for r in paper] == [r["artifact"] for r in rows], "the same networks"
    for row in paper:
        found = json.loads((tmp_path / "out" / row["run"] / "results.json").read_text())
        assert found["protocol"] == "paper" and 1 <= int(row["epoch"]) <= 200
        assert row["oa_last_epoch"] == f"{found['details']['oa_last_epoch']:.4f}"


def test_image_statistics_stand_beside(command: Callable[..., Any], tmp_path: Path) -> None:
    (row,) = command(
        "signals", "--only", "image_statistics", "--ts", "2", "--seeds", "0", *TINY, *NETWORK, "dataset=folder"
    )
    found = json.loads((tmp_path / "out" / row["run"] / "results.json").read_text())
    assert row["oa"] == f"{found['baselines']['image_statistics']['oa']:.4f}" and row["artifact"] == ""


def test_pools_of_several_sizes(command: Callable[..., Any], tmp_path: Path) -> None:
    small = [*TINY, *NETWORK, "dataset=folder", "ssl=simclr"]
    command("amount", "--pools", "8,24", "--ts", "2", "--seeds", "0", *small)
    trainings = read(tmp_path / "csv" / "trainings.csv")
    assert {(r["images"], r["steps"]) for r in trainings} == {("24", "1"), ("8", "1")}


def test_from_one_dataset_to_another(
    command: Callable[..., Any],
    module: Callable[[str], Any],
    imagery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, ...]] = []

    def two(bench: Any, network: Any) -> int:
        asked.append(network.train)
        return 2

    monkeypatch.setattr(module("runs").Bench, "steps", two)
    names = ("EuroSAT_RGB", "AID", "NWPU_RESISC45")
    few = ["--only", "none,mixture", "--ts", "2", "--seeds", "0"]
    rows = command("distance", *few, "--starts", "random", *TINY, *NETWORK)
    there = {(r["source"], r["target"]) for r in rows}
    assert there == {(s, t) for s in ("none", "mixture") for t in names}
    assert asked and all("dataset.name=eurosat_rgb" in train for train in asked), "as many steps for every source"
    tests = {}
    for name in names:
        run = next(r["run"] for r in rows if (r["source"], r["target"]) == ("none", name))
        tests[name] = {imagery / name / r["image"] for r in read(tmp_path / "out" / run / "predictions.csv")}
        pool = {p.resolve() for p in (tmp_path / "out" / "pools" / name).iterdir()}
        assert len(pool) == 24 and len(tests[name]) == 6 and not pool & tests[name]
    mixed = {p.resolve() for p in (tmp_path / "out" / "pools" / "mixture").rglob("*.png")}
    assert len(mixed) == 24 and not any(mixed & images for images in tests.values())
    far = {(r["source"], r["target"]): float(r["bands"]) for r in read(tmp_path / "csv" / "distances.csv")}
    assert far["AID", "AID"] == pytest.approx(0, abs=1e-3)
    assert far["EuroSAT_RGB", "AID"] < far["EuroSAT_RGB", "NWPU_RESISC45"], "it is of another colour"


def test_the_distance_of_two_normal_distributions(module: Callable[[str], Any]) -> None:
    frechet, random = module("distance").frechet, np.random.default_rng(0)
    one, other = random.normal(0, 1, (200_000, 2)), random.normal([3, 0], [2, 5], (200_000, 2))
    assert frechet(one, other) == pytest.approx(9 + 1 + 16, rel=0.02)  # (m - n)^2 + (s - t)^2 in each axis


def test_the_correlation_of_ranks(module: Callable[[str], Any]) -> None:
    x, y = [0.2, 0.2, 0.5, 0.1, 0.5, 0.5, 0.9], [3.0, 1.0, 1.0, 2.0, 8.0, 9.0, 1.5]
    assert module("tables").rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_the_nearer_source_is_the_better(module: Callable[[str], Any]) -> None:
    far = [("a", 1, 1.0), ("a", 2, 3.0), ("a", 3, 2.0), ("b", 9, 0.5), ("b", 8, 0.1), ("c", 0, 7.0)]
    pairs = [{"target": target, "features": near, "lost": lost} for target, near, lost in far]
    assert module("distance").nearer_is_better(pairs, "features") == (3, 4), (
        "1 before 2 and 3, not 2 before 3; 8 before 9"
    )


def test_puzzles_whose_answer_can_be_seen(
    command: Callable[..., Any], module: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("budget"), "AID_POOL", 12)
    few = ["--only", "easy,aid,eurosat_few", "--steps", "3", "--aid-steps", "2", "--ts", "2", "--seeds", "0"]
    found = command("budget", *few, *TINY, *NETWORK, "pretrain.image_size=48")
    rows = read(tmp_path / "csv" / "trainings.csv")
    assert sorted((r["network"].split("-")[0], r["steps"]) for r in rows) == [
        *[("aid", "2")] * 2,
        *[("easy", "3")] * 4,
        ("eurosat_few", "2"),
    ]
    assert all(0 <= float(r["solved_last"]) <= 1 for r in rows)
    lines = module("budget").defect_table(tmp_path / "csv").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [*["| made here"] * 4, *["| AID"] * 2, "| EuroSAT"]
    artifacts = {r["artifact"] for r in rows if r["network"].startswith("aid-")}
    assert {r["method"]: r["artifact"] in artifacts for r in found} == {
        "none": False,
        "jigsaw2x2": True,
        "jigsaw3x3": True,
    }


def test_the_tables_are_those_of_the_rows(module: Callable[[str], Any]) -> None:
    record, tables = module("record"), module("tables")
    text = (FOLDER / "README.md").read_text()
    assert record.filled(text, FOLDER) == text, "python experiments/paper/record.py writes them anew"
    for name in record.PLACES:
        assert f"<!-- {name} -->" in text
    assert tables.spread([49.0, 50.0, 51.0]) == "50.0 ± 1.0" and tables.spread([]) == "-"
    one = rows_of(("a", "0", "0", 0.50), ("a", "0", "1", 0.60))
    other = rows_of(("none", "0", "1", 0.55), ("none", "0", "0", 0.40))
    assert tables.over(one, other, 20) == pytest.approx([10, 5]) and tables.over(one, other, 5) == []


def rows_of(*figures: tuple[str, str, str, float]) -> list[dict[str, str]]:
    """Rows of a method with 20 labels: its name, the pre-training seed, the draw of labels, accuracy."""
    says = {"start": "random", "network": "small", "seconds": "1", "ts": "20"}
    return [says | {"method": m, "pretrain_seed": p, "seed": k, "oa": str(oa)} for m, p, k, oa in figures]


def test_what_another_pre_training_seed_changes(module: Callable[[str], Any], tmp_path: Path) -> None:
    figures = [("none", p, str(k), 0.30 + 0.01 * k) for p in "01" for k in range(5)]
    for method, of_seeds in (("a", (0.60, 0.64)), ("b", (0.50, 0.70)), ("c", (0.40, 0.40)), ("d", (0.90,))):
        figures += [(method, str(p), str(k), oa + 0.02 * k) for p, oa in enumerate(of_seeds) for k in range(5)]
    figures.append(("d", "1", "0", 0.80))
    rows = rows_of(*figures)
    with open(tmp_path / "signals.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    lines = module("seeds").seeds_table(tmp_path, "random").splitlines()
    assert lines[0] == "| method | network | seed 0 | seed 1 | ± of seeds | ± of draws |"
    assert lines[2:6] == [
        "| a | small | 64.0 | 68.0 | 2.8 | 3.2 |",
        "| b | small | 54.0 | 74.0 | 14.1 | 3.2 |",
        "| c | small | 44.0 | 44.0 | 0.0 | 3.2 |",
        "| (the start) | small | 32.0 | 32.0 | 0.0 | 1.6 |",
    ], "and none of d, whose second seed is not whole"
    apart = (np.array([np.std([60, 64], ddof=1), np.std([50, 70], ddof=1), 0]) ** 2).mean() ** 0.5
    rank = spearmanr([60, 50, 40], [64, 70, 40]).statistic
    assert (
        f"mean: {apart:.1f} points" in lines[-3] and f"the 3 methods' order, seeds 0 and 1: {rank:+.2f}." in lines[-3]
    )


def test_what_a_doubling_brings(module: Callable[[str], Any]) -> None:
    slope = module("amount").slope
    rows = [
        {"images": str(n), "ts": "20", "seed": str(k), "oa": str(0.5 + (k + 1) * 0.01 * np.log2(n))}
        for n in (200, 800, 3200)
        for k in (0, 1)
    ]
    points, interval = slope(rows, 20)
    assert points == pytest.approx(1.5), "the mean of one and two points"
    assert interval == pytest.approx(12.71 * 0.5**0.5 / 2**0.5), "Student's t with one degree of freedom"


def write_rows(file: Path, networks: list[Any], scales: tuple[int, ...]) -> None:
    """Rows made up here: all draws of the labels of these networks."""
    random = np.random.default_rng(0)
    file.parent.mkdir(exist_ok=True)
    with open(file, "w", newline="") as lines:
        rows = csv.DictWriter(lines, [*networks[0].says, "ts", "seed", "oa", "oa_last_epoch", "artifact"])
        rows.writeheader()
        for network in networks:
            for ts in scales:
                for seed in range(5):
                    oa = {"oa": 0.5 + 0.1 * random.random(), "oa_last_epoch": 0.5, "artifact": network.name}
                    rows.writerow(network.says | {"ts": ts, "seed": seed} | oa)


def test_a_whole_record(module: Callable[[str], Any], tmp_path: Path) -> None:
    """Rows of all that is planned: every table has them all, every plot is drawn."""
    random = np.random.default_rng(0)
    signals, record = module("signals"), module("record")
    how = signals.planned(tmp_path)
    write_rows(tmp_path / "signals.csv", signals.networks(signals.planned(tmp_path, (0, 1))), (5, 20, 100))
    for question in ("protocol", "budget", "amount", "distance"):
        networks = (signals if question == "protocol" else module(question)).networks(how)
        networks += module("budget").scenes(1) if question == "budget" else []
        write_rows(tmp_path / f"{question}.csv", networks, (5, 20) if question == "distance" else (5, 20, 100))
    write_rows(tmp_path / "bands" / "signals.csv", signals.networks(how), (1, 5))
    with open(tmp_path / "distances.csv", "w") as file:
        file.write("source,target,features,bands\n")
        for source in (*how.datasets, "mixture"):
            file.writelines(f"{source},{target},{random.random()},{random.random()}\n" for target in how.datasets)
    text = record.filled((FOLDER / "README.md").read_text(), tmp_path)
    assert "not whole" not in text and " - |" not in text
    assert "From random, 9 pairs" in text
    for draw, _ in record.PLOTS.values():
        assert draw(tmp_path).startswith(b"\x89PNG")
