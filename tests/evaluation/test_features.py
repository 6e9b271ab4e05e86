"""The feature bank: each row computed once, whoever asks, and the same numbers as the backbone gives."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.evaluation.bank_files import row_checksums
from rsssl.evaluation.features import FeatureBank, damaged_rows


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


def test_a_damaged_row_is_computed_again_and_the_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.arange(1000)
    right = FeatureBank(tmp_path, 1000, Counting()).get(rows)
    content = bytearray((tmp_path / "features.bin").read_bytes())
    content[8 * 700 + 5] ^= 16  # in the second number of row 700
    (tmp_path / "features.bin").write_bytes(content)
    assert damaged_rows(tmp_path) == 1
    again = Counting()
    assert torch.equal(FeatureBank(tmp_path, 1000, again).get(rows), right)
    assert again.asked == [700] and "1 rows are damaged and computed again" in caplog.text
    assert damaged_rows(tmp_path) == 0


@pytest.mark.parametrize("size", [0, 1, 4000, 7999, 12000])
def test_a_bank_of_another_size_is_computed_again(tmp_path: Path, size: int) -> None:
    rows = np.arange(1000)
    right = FeatureBank(tmp_path, 1000, Counting()).get(rows)
    with open(tmp_path / "features.bin", "r+b") as file:
        file.truncate(size)
    assert torch.equal(FeatureBank(tmp_path, 1000, Counting()).get(rows), right)


def test_checksums_are_those_of_zlib_and_never_zero() -> None:
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    assert row_checksums(features).tolist() == [zlib.crc32(row.tobytes()) for row in features]
    # four bytes whose CRC-32 is 0: found by running the register backwards from it
    assert zlib.crc32(b"\x9d\x0a\xd9\x6d") == 0
    assert row_checksums(np.frombuffer(b"\x9d\x0a\xd9\x6d", np.float32)[None]).tolist() == [1]
