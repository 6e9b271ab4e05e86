"""The dataset YAMLs: short, complete, and right about what their publishers say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

import rsssl
from rsssl.data.class_names import key
from rsssl.data.synthetic import CLASSES

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = sorted(p.stem for p in CONF.glob("*.yaml"))
N_CLASSES = {
    "aid": 30,
    "nwpu_resisc45": 45,
    "eurosat_rgb": 10,
    "eurosat_ms": 10,
    "eurosat_msrgb": 10,
    "ucmerced": 21,
    "rsscn7": 7,
    "whu_rs19": 19,
    "patternnet": 38,
    "synthetic": 10,
}


def load(name: str) -> dict:
    values: dict = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return values


@pytest.mark.parametrize("name", NAMES)
def test_short_commented_and_typed(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ") and text.count("\n") <= 20 and all(len(line) <= 130 for line in text.split("\n"))
    values = load(name)
    if name == "nr":
        assert values["defaults"][0] == "nwpu_resisc45"
        return
    own = {"scene": "rsssl.geo.scene_dataset.SceneDataset", "pack": "rsssl.data.finished.FinishedPack"}
    assert values.pop("_target_") == own.get(name, "rsssl.data.dataset.Dataset") and values["name"] == name
    if name == "scene":
        values.pop("nodata")  # it refers to what is typed for task=map
    assert set(values) <= {f.name for f in dataclasses.fields(rsssl.dataset(**values))}


@pytest.mark.parametrize("name", sorted(N_CLASSES))
def test_number_of_classes(name: str) -> None:
    classes = load(name)["classes"]
    assert len(classes) == N_CLASSES[name] == len({key(c) for c in classes})


def test_the_bands_of_eurosat() -> None:
    wide, narrow = load("eurosat_ms"), load("eurosat_msrgb")
    assert (
        len(wide["bands"]) == len(wide["valid_range"]) == 13
        and wide["bands"][-1] == "B8A"
        and wide["bands"][8] == "B09"
    )
    assert narrow["select"] == ["B04", "B03", "B02"]
    assert narrow["valid_range"] == [wide["valid_range"][wide["bands"].index(b)] for b in narrow["select"]]


def test_downloads_have_checksums() -> None:
    for name in NAMES:
        values = load(name)
        assert bool(values.get("url")) == bool(values.get("md5"))


def test_synthetic_lists_its_classes() -> None:
    assert load("synthetic")["classes"] == list(CLASSES)
