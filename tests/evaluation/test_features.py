"""The feature bank: each row computed once, whoever asks, and the same numbers as the backbone gives."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.evaluation import bank_files, on_disk
from rsssl.evaluation.bank_files import BankFiles, damaged_features, row_checksums
from rsssl.evaluation.features import Extractor, FeatureBank
from rsssl.evaluation.on_disk import OnDisk, in_parts
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import InputLayer, Preprocess


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


def test_an_interrupted_computation_keeps_what_is_whole(tmp_path: Path) -> None:
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
    assert counting.asked == list(range(256, 600))
    assert torch.equal(found[:, 1], torch.arange(600).float() ** 2)


def test_a_damaged_row_is_computed_again_and_the_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_files, "SHARD", 400)
    rows = np.arange(1000)
    right = FeatureBank(tmp_path, 1000, Counting()).get(rows)
    assert sorted(f.name for f in tmp_path.glob("*.bin")) == ["000000.bin", "000001.bin", "000002.bin"]
    content = bytearray((tmp_path / "000001.bin").read_bytes())
    assert len(content) == 400 * (4 + 8)
    assert np.frombuffer(content, np.float32)[400:].reshape(400, 2).tolist() == right[400:800].tolist()
    content[4 * 400 + 8 * 300 + 5] ^= 16  # in the second number of row 700
    (tmp_path / "000001.bin").write_bytes(content)
    assert damaged_features(tmp_path) == ["000001.bin"]
    again = Counting()
    assert torch.equal(FeatureBank(tmp_path, 1000, again).get(rows), right)
    assert again.asked == [700] and f"{tmp_path / '000001.bin'}: 1 rows are damaged and computed again" in caplog.text
    assert damaged_features(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 4000, 7999, 8000, 16000])
def test_a_file_of_another_size_is_computed_again(tmp_path: Path, size: int) -> None:
    rows = np.arange(1000)
    right = FeatureBank(tmp_path, 1000, Counting()).get(rows)
    with open(tmp_path / "000000.bin", "r+b") as file:
        file.truncate(size)
    assert damaged_features(tmp_path) == ["000000.bin"]
    assert torch.equal(FeatureBank(tmp_path, 1000, Counting()).get(rows), right)
    assert damaged_features(tmp_path) == []


def test_a_row_whose_checksum_or_numbers_never_came_is_computed_again(tmp_path: Path) -> None:
    """A kill, or a power cut, between the two: they lie in different pages of the file."""
    files = BankFiles(tmp_path, 100)
    files.write(np.arange(100), np.ones((100, 3), np.float32))
    content = bytearray(files.file(0).read_bytes())
    content[4 * 7 : 4 * 8] = bytes(4)
    content[4 * 100 + 12 * 9 : 4 * 100 + 12 * 10] = bytes(12)
    files.file(0).write_bytes(content)
    whole, damaged = files.whole(np.arange(100))
    assert np.flatnonzero(~whole).tolist() == [7, 9] and damaged == {"000000.bin": 1}


def test_few_rows_of_a_large_pool_take_little_disk(tmp_path: Path) -> None:
    rows = np.arange(0, 10**6, 10**5) + 3
    bank = FeatureBank(tmp_path, 10**6, lambda rows: torch.from_numpy(rows)[:, None].float().expand(-1, 1000))
    assert bank.get(rows)[:, 999].tolist() == rows.tolist()
    assert sum(512 * f.stat().st_blocks for f in tmp_path.glob("*.bin")) < 10**6
    assert bank.width == 1000


def test_features_on_the_disk_are_those_in_memory_however_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_files, "SHARD", 64)
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    rows = np.random.default_rng(0).permutation(300)[:200]
    bank = FeatureBank(tmp_path, 300, lambda rows: x[rows])
    kept, expected = bank.kept(rows), x[rows]
    assert isinstance(kept, OnDisk) and kept.shape == (200, 6) and len(kept) == 200
    mask = expected[:, 0] > 0
    for key in (slice(None), slice(3, 77), slice(0, 0), torch.tensor([5, 0, 5, 199]), np.array([4, 2]), mask):
        assert torch.equal(kept[key], expected[key])
        assert torch.equal(kept[:, 1:5][:, 1:][key], expected[:, 2:5][key])
    monkeypatch.setattr(on_disk, "ROWS", 33)
    assert torch.equal(torch.cat(list(in_parts(kept, expected))), torch.cat([expected, expected]))


def test_checksums_are_those_of_zlib_and_never_zero() -> None:
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    assert row_checksums(features).tolist() == [zlib.crc32(row.tobytes()) for row in features]
    # four bytes whose CRC-32 is 0: found by running the register backwards from it
    assert zlib.crc32(b"\x9d\x0a\xd9\x6d") == 0
    assert row_checksums(np.frombuffer(b"\x9d\x0a\xd9\x6d", np.float32)[None]).tolist() == [1]


@pytest.mark.parametrize("trained", [False, True])
def test_features_are_those_of_the_network_and_follow_its_training(trained: bool) -> None:
    card = SensorCard("t", ("a", "b"), "uint8", (0, 0), (255, 255), None, (0.4,) * 2, (0.2,) * 2, ("c",), (32, 32))
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 32, 32), dtype=np.uint8)
    pack: Any = SimpleNamespace(card=card, read=lambda rows: images[rows])
    network, preprocess = build_backbone("resnet10t", 2), Preprocess(card, 48, card.mean, card.std)
    extract = Extractor(lambda: network, pack, preprocess, torch.device("cpu"), trained=trained)
    rows = np.array([4, 0, 5])

    def expected() -> Tensor:
        with torch.inference_mode():
            return network.eval()(InputLayer(preprocess)(torch.from_numpy(images[rows])))

    torch.testing.assert_close(extract(rows), expected(), rtol=1e-4, atol=1e-4)
    first = expected()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean += 0.1
                module.weight *= 1.5
    torch.testing.assert_close(extract(rows), expected() if trained else first, rtol=1e-4, atol=1e-4)
    assert (expected() - first).abs().max() > 0.1
