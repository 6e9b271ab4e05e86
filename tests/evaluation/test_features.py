"""The feature bank: each row computed once, whoever asks, and the same numbers as the backbone gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.evaluation.features import FeatureBank


class Counting:
    """Row r has the features (r, r squared); remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, rows: np.ndarray) -> Tensor:
        self.asked += rows.tolist()
        return torch.from_numpy(np.stack([rows, rows**2], 1)).float()


def test_rows_are_computed_once_and_kept(tmp_path: Path) -> None:
    first = Counting()
    bank = FeatureBank(tmp_path, 1000, first)
    rows = np.array([7, 3, 999, 3])
    assert bank.get(rows).tolist() == [[7, 49], [3, 9], [999, 998001], [3, 9]]
    assert sorted(first.asked) == [3, 7, 999]
    second = Counting()
    again = FeatureBank(tmp_path, 1000, second).get(np.array([3, 4]))
    assert again.tolist() == [[3, 9], [4, 16]] and second.asked == [4]


def test_an_interrupted_computation_is_not_taken_for_features(tmp_path: Path) -> None:
    class Dies(Counting):
        def __call__(self, rows: np.ndarray) -> Tensor:
            if len(self.asked) >= 256:
                raise KeyboardInterrupt
            return super().__call__(rows)

    rows = np.arange(600)
    with pytest.raises(KeyboardInterrupt):
        FeatureBank(tmp_path, 600, Dies()).get(rows)
    counting = Counting()
    found = FeatureBank(tmp_path, 600, counting).get(rows)
    assert len(counting.asked) == 600
    assert torch.equal(found[:, 1], torch.arange(600).float() ** 2)
