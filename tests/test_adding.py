"""What docs/adding.md shows works as it stands there: its files, its commands, in any order and on two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding.md"
SMALL = ["backbone.name=resnet10t", "start=random", "+backbone.kwargs.channels=[8,16,32,64]", "pretrain.pictures=0"]


@pytest.fixture
def place(documents: Any, tmp_path: Path) -> Path:
    """A folder with my/, as the page says to write it."""
    documents.files_of(PAGE, tmp_path)
    return tmp_path


@pytest.fixture
def command(documents: Any) -> Any:
    """command(word): the command of the page that has that word, without rsssl-run."""
    commands = [words for block in documents.blocks_of(PAGE) if block.language == "shell" for words in block.commands]
    return lambda word: next(words[1:] for words in commands if word in words)


def test_the_method_trains(place: Path, tiles: Path, command: Any, workshop: Any) -> None:
    (place / "my_tiles").symlink_to(tiles)
    text = workshop.run(place, *command("ssl=mine"), *SMALL, "hydra.run.dir=run")
    record = json.loads((place / "run" / "results.json").read_text())
    assert record["ssl"] == "mine" and "ssl=mine from start=random" in text and "Traceback" not in text


def test_the_task_counts_and_says_what_it_needs(place: Path, command: Any, workshop: Any) -> None:
    (place / "my_tiles").mkdir()
    (place / "my_tiles" / "one").touch()
    assert "1 files, too few" in workshop.run(place, *command("task=count"), "hydra.run.dir=run")
    assert json.loads((place / "run" / "count.json").read_text()) == {"files": 1}
    assert "at_least: 10" in (place / "run" / "config.yaml").read_text()
    assert "folder=tils is not a folder: type folder=DIR" in workshop.run(
        place, "--config-dir", "my", "task=count", "folder=tils", exits=2
    )
    assert "type for example folder=tiles/" in workshop.run(place, "--config-dir", "my", "task=count", exits=2)


def test_flags_may_stand_anywhere_and_reach_every_process(place: Path, workshop: Any) -> None:
    (place / "tiles").mkdir()
    mixed = ["task=count", "folder=tiles", "--config-dir", "my", "processes=2", "hydra.run.dir=run"]
    text = workshop.run(place, *mixed)
    assert text.count("0 files, too few") == 1 and "unrecognized" not in text
    assert sorted(p.name for p in place.iterdir() if p.is_dir()) == ["my", "run", "tiles"]
