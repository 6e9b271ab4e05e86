"""What is typed wrong is refused before any data is read or anything is written, with what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rsssl.compose import Composer, composed
from rsssl.data.dataset import Dataset
from rsssl.errors import nearest
from rsssl.explain import leaf_keys
from rsssl.groups import GROUPS, group_options


def slips(word: str) -> set[str]:
    """A letter left out, one typed twice, two exchanged, in the middle of the word."""
    at = len(word) // 2
    before, a, b, after = word[: at - 1], word[at - 1], word[at], word[at + 1 :]
    return {before + a + after, before + a + b + b + after, before + b + a + after}


def differences(a: str, b: str) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_every_key_and_option_is_found_from_its_misspelling() -> None:
    with Composer() as composer:
        names = leaf_keys(composed(composer, ["ssl=dino", "augment=multicrop"]))
    for key in names:
        head, dot, last = key.rpartition(".")
        for slip in slips(last) if len(last) > 4 else ():
            typed = f"{head}{dot}{slip}"
            assert typed in names or nearest(typed, names if dot else [*names, *GROUPS]) == key, typed
    for group in GROUPS:
        for option in (o for o in group_options(group) if len(o) > 4):
            alike = {o for o in group_options(group) if len(o) == len(option) and differences(o, option) < 2}
            for slip in slips(option):
                assert slip in group_options(group) or nearest(slip, group_options(group)) in alike, f"{group}={slip}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrain.epocs=3"], "Type pretrain.epochs=3"),
        (["checkpoint=runs/mine", "images=tiles", "out=x.csv"], "images= belongs to task=predict"),
        (["scene=scene.tif"], "scene= belongs to task=map"),
        (["reference=points.gpkg"], "reference= belongs to task=accuracy"),
        (["task=predict", "ts=5"], "ts= belongs to task=pipeline"),
        (["task=predict", "dataset=aid"], "dataset= belongs to task=pipeline"),
        (["task=map", "out=m.tif"], "type for example checkpoint=runs/mine, or dataset=scene dataset.scenes=scene.tif"),
        (["task=map", "out=m.tif", "dataset=scene"], "dataset=scene needs the scenes: type dataset.scenes=FILE"),
        (["task=pack", "dataset=scene", "dataset.scenes=no.tif"], "the scene no.tif does not exist"),
        (["task=map", "out=m.tif", "map.coverage=90", "checkpoint=c", "scene=s"], "type map.coverage=0.9"),
        (["dataset=scene"], "dataset=scene has no folder of tiles: type dataset.scenes="),
        (["task=accuracy", "scene=map.tif"], "type class_map=map.tif"),
        (["task=map", "adapt=cast"], "type values=cast"),
        (["task=map", "checkpoint=runs/mine", "scene=s.tif"], "task=map needs out=: type for example out=map.tif"),
        (["ssl=simlcr"], "Type ssl=simclr"),
        (["ssl=simclr", "ssl.temprature=0.2"], "Type ssl.temperature=0.2"),
        (["pretrain.batch_size=big"], "pretrain.batch_size=big"),
        (["augment.operations.colour.p=often"], "augment.operations.colour.p takes a number"),
        (["dataset.bands=[r,g,b]", "dataset.select=[nir]"], "dataset.select names nir"),
        (["dataset=eurosat_ms", "pretrain.dataset=aid"], "pretrain.dataset=null"),
        (["--multirun", "ts=5,20", "seed=0,1,x"], "seed=x"),
        (["task=map", "dataset=scene", "dataset.scenes=s.tif", "out=m.tif"], "dataset.labels= is missing"),
        (
            ["task=map", "dataset=scene", "dataset.scenes=/vsimem/s.tif", "dataset.labels=p.csv", "out=map"],
            "out=map.tif",
        ),
        (["task=map", "pretrain.minutes=2", "pretrain.steps=9", "out=m.tif"], "both say how long"),
        (["dataset=folder", "root=my_tiles"], "Type dataset.root=my_tiles"),
        (["checkpoint=runs/nmie", "ssl=none"], "checkpoint=runs/nmie does not exist"),
        (["task=export", "checkpoint=runs/nmie", "out=x"], "checkpoint=runs/nmie does not exist"),
        (["task=suggest", "out=''"], "out=. is a folder: type out= with the name of a file"),
        (["task=suggest", "out=x.txt"], "type out=x.csv"),
        (["--dataset", "folder"], "type dataset=folder"),
    ],
)
def test_a_wrong_command_reads_nothing_and_leaves_nothing(
    arguments: list[str],
    expected: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    """The command itself, with a dataset that exists: one line, exit code 2, no run folder, no store."""

    def never(self: Dataset) -> None:
        raise AssertionError("it looked for the data first")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("RSSSL_STORE", str(tmp_path / "here" / "store"))
    monkeypatch.setattr(Dataset, "catalog", never)
    data = [] if any(a.startswith("task=") for a in arguments) else [f"dataset.root={root}"]
    said = refused(*data, *arguments)
    assert said.startswith("rsssl: ") and expected in said
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["task=predict", "checkpoint=.", "images=tlies", "out=x.csv"], "images=tlies does not exist"),
        (
            ["task=predict", "checkpoint=.", "images=s.tif", "out=x.csv"],
            "type rsssl-run task=map checkpoint=. scene=s.tif",
        ),
        (["tiles"], "tiles has no key; all is typed key=value: type dataset=folder dataset.root=tiles"),
    ],
)
def test_what_lies_here_is_taken_for_what_it_is(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    """One sentence, and nothing of Hydra's grammar."""
    (tmp_path / "tiles").mkdir()
    (tmp_path / "s.tif").write_bytes(b"II*\0")
    monkeypatch.chdir(tmp_path)
    said = refused(*arguments)
    assert expected in said and "hydra.cc" not in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("typed", ["pretrain.steps=106", "pretrain.epochs=1"])
def test_a_length_that_is_typed_wins_over_the_minute_that_a_map_takes_by_itself(typed: str) -> None:
    with Composer() as composer:
        plain, given = (composed(composer, ["task=map", *words]).pretrain for words in ([], [typed]))
        spent = composed(composer, ["task=map", "pretrain.minutes=3"]).pretrain
    assert (plain.minutes, given.minutes, spent.minutes) == (1.0, None, 3)
