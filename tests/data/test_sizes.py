"""What it says of tiles that lie in the store much larger than networks see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.sizes import size_advice


@pytest.fixture
def large(written: Callable[..., Pack], tmp_path: Path) -> Pack:
    """As a pack of 10,000 RGB tiles of 400 pixels says that it is."""
    pack = written(tmp_path / "pack", ["a", "b"], np.array([-1, -1]))
    bands = {"bands": ("r", "g", "b"), "dtype": "uint8", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    pack.card = replace(pack.card, **bands, low=(0.0,) * 3, high=(255.0,) * 3, size=(400, 400))
    pack._n = 10_000
    return pack


def test_it_says_what_they_take_and_what_to_type(large: Pack) -> None:
    # 10,000 x 3 x 400 x 400 bytes; 10,000 x 3 x 256 x 256 bytes
    advice = size_advice(rsssl.dataset("folder", root="x"), large, 224)
    assert advice is not None and "tiles of 400 pixels take 4.8 GB of the store" in advice
    assert advice.endswith("with dataset.size=256 they would take 2.0 GB") and str(large.folder) in advice


@pytest.mark.parametrize(
    ("typed", "seen", "n"), [({"size": 400}, 224, 10_000), ({}, 288, 10_000), ({}, 224, 2_000)], ids=str
)
def test_nothing_is_said_where_it_was_typed_or_little_would_be_gained(
    typed: dict[str, int], seen: int, n: int, large: Pack
) -> None:
    large._n = n
    assert size_advice(rsssl.dataset("folder", root="x", **typed), large, seen) is None
