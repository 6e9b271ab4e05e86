"""What is said of a result beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsssl.report.map_page import baselines_part
from rsssl.report.summary import better_baselines, print_results


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"baselines": {"frozen_start": {"oa": 0.9004}}}, []),
        (
            {"baselines": {"frozen_start": {"oa": 0.93}, "random_init": {"oa": 0.2}}},
            ["frozen start", "3.0", "ssl=none"],
        ),
        ({"baselines": {"random_init": {"oa": 0.95}}}, ["random init", "5.0", "ssl=none start=random"]),
        (
            {"baselines": {"frozen_start": {"oa": 0.91, "evaluate": "linear"}}},
            ["frozen start", "1.0", "ssl=none evaluate=linear"],
        ),
        ({"parts": {"linear": {"oa": 0.92}}}, ["the linear part", "2.0", "evaluate=linear"]),
        ({"baselines": {"image_statistics": {"oa": 0.92}}}, ["image statistics", "2.0", "type evaluate=statistics"]),
    ],
)
def test_what_did_better_is_said_with_what_to_type(changes: dict[str, Any], said: list[str]) -> None:
    sentences = better_baselines({"oa": 0.9, "evaluate": "auto", **changes})
    assert len(sentences) == bool(said)
    assert all(word in sentence for sentence in sentences for word in said)


def test_the_map_page_has_the_baselines() -> None:
    notes = {"oa": 0.9, "evaluate": "auto", "baselines": {"frozen_start": {"oa": 0.93}, "image_<b>": {"oa": 0.5}}}
    html = "".join(baselines_part(notes))
    assert all(f"<td>{figure} %</td>" in html for figure in ("90.0", "93.0", "50.0"))
    assert "ssl=none" in html and "<b>" not in html
    assert baselines_part({"oa": 0.9, "baselines": {}}) == []


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (
            None,
            ["all (1,200 images), seed 0, tested on 900 images (", "with 800 labels per class it would be 91 to 95 %"],
        ),
        (
            16,
            [
                "all (1,200 windows of 16 points and polygons), seed 0, tested on 900 windows (",
                "with 2 times the labels (2,400 windows of 32 points and polygons) it would be 91 to 95 %",
            ],
        ),
    ],
)
def test_windows_of_a_scene_are_not_called_labels(
    drawn: int | None, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes, 1,200 windows: 400 a class, of few polygons."""
    results: dict[str, Any] = {"ssl": "none", "start": "imagenet", "evaluate": "linear", "dataset": "scene", "seed": 0}
    results |= {"backbone": "resnet18", "ts": "all", "n_train": 1200, "n_test": 900, "protocol": "clean"}
    results |= {"split": "470 m apart", "oa": 0.9, "aa": 0.9, "kappa": 0.8, "baselines": {}, "n_drawn": drawn}
    results["outlook"] = [{"times": 2, "labels_per_class": 800.0, "oa": 0.93, "low": 0.91, "high": 0.95}]
    print_results(results, Path("results.json"))
    text = capsys.readouterr().out
    assert all(sentence in text for sentence in said), text


@pytest.mark.parametrize(("evaluate", "named"), [("linear", True), ("statistics", False)])
def test_a_network_that_nothing_looked_at_is_not_named(
    evaluate: str, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    results: dict[str, Any] = {"ssl": "none", "start": "imagenet", "evaluate": evaluate, "dataset": "coast", "seed": 0}
    results |= {"backbone": "resnet18", "ts": 5, "n_train": 15, "n_test": 90, "protocol": "clean"}
    results |= {"split": "random", "oa": 0.9, "aa": 0.9, "kappa": 0.8, "baselines": {}}
    print_results(results, Path("results.json"))
    assert ("resnet18" in capsys.readouterr().out) == named
