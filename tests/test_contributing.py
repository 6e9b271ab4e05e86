"""What CONTRIBUTING.md shows works as it stands there: its files, its commands, in any order and on two processes."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

GUIDE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
SMALL = ["backbone.name=resnet10t", "start=random", "+backbone.kwargs.channels=[8,16,32,64]", "pretrain.pictures=0"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with my/, as the guide says to write it."""
    for section, code, config in (
        ("A method", "my_method.py", "ssl/mine.yaml"),
        ("A task", "my_task.py", "task/count.yaml"),
    ):
        shown = GUIDE.split(f"### {section}\n")[1].split("\nThen\n")[0]
        lines = [line for line in shown.splitlines() if line.startswith("    ") or not line]
        python, yaml = re.split(r"\n(?=_target_|# @package)", textwrap.dedent("\n".join(lines)))
        for name, text in ((code, python), (config, yaml)):
            (tmp_path / "my" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "my" / name).write_text(text.strip("\n") + "\n")
    return tmp_path


def command(section: str) -> list[str]:
    """The command that the guide gives for it."""
    return re.findall(r"^    rsssl-run (.*)$", GUIDE.split(f"### {section}\n")[1], re.MULTILINE)[0].split()


def test_the_method_trains(place: Path, tiles: Path, workshop) -> None:
    more = ["dataset=folder", f"dataset.root={tiles}", *SMALL, "hydra.run.dir=run"]
    text = workshop.run(place, *command("A method"), *more)
    record = json.loads((place / "run" / "results.json").read_text())
    assert record["ssl"] == "mine" and "ssl=mine from start=random" in text and "Traceback" not in text
    said = [
        "72 images of 16 x 16 x 3, 3 classes; pool ",
        "evaluate=auto from 15 labels (ts=5)",
        "20 steps of ",
    ]
    assert sorted(said, key=text.index) == said, "what will be done is said first, in this order"
    assert "\r" not in text, "a log has no bars"


def test_the_task_counts_and_says_what_it_needs(place: Path, workshop) -> None:
    (place / "tiles").mkdir()
    (place / "tiles" / "one").touch()
    assert "1 files, too few" in workshop.run(place, *command("A task"), "hydra.run.dir=run")
    assert json.loads((place / "run" / "count.json").read_text()) == {"files": 1}
    assert "at_least: 10" in (place / "run" / "config.yaml").read_text()
    assert "folder=tils is not a folder: type folder=DIR" in workshop.run(
        place, "--config-dir", "my", "task=count", "folder=tils", exits=2
    )
    assert "type for example folder=tiles/" in workshop.run(place, "--config-dir", "my", "task=count", exits=2)


def test_flags_may_stand_anywhere_and_reach_every_process(place: Path, workshop) -> None:
    (place / "tiles").mkdir()
    mixed = ["task=count", "folder=tiles", "--config-dir", "my", "processes=2", "hydra.run.dir=run"]
    text = workshop.run(place, *mixed)
    assert text.count("0 files, too few") == 1 and "unrecognized" not in text
    assert sorted(p.name for p in place.iterdir() if p.is_dir()) == ["my", "run", "tiles"]
