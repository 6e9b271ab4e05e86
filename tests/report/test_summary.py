"""What is said of a result beside its baselines."""

from __future__ import annotations

from typing import Any

import pytest

from rsssl.report.map_page import baselines_part
from rsssl.report.summary import better_baselines


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
