"""What the views of a batch cost on an accelerator, calculated from shapes: operations, bytes, copies to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rsssl.augment import on_gpu, ops
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from tests.fake_accelerator import CUDA, FakeAccelerator, Kernel

CONF = Path(__file__).resolve().parents[2] / "conf" / "augment"


@pytest.mark.parametrize(
    ("policy", "bands", "stored", "size", "most", "gigabytes"),
    [("rs", 3, 256, 224, 8, 2.0), ("simclr", 3, 256, 224, 12, 6.0), ("rs", 13, 64, 64, 8, 1.0)],
)
def test_two_views_of_256_images(
    policy: str, bands: int, stored: int, size: int, most: int, gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: Any = instantiate(OmegaConf.load(CONF / f"{policy}.yaml"), _convert_="all")
    kind, high = (torch.uint8, 255.0) if bands == 3 else (torch.int32, 10_000.0)
    each = [(v,) * bands for v in ("b", 0.0, high, 0.4, 0.2)]
    card = SensorCard(
        "t", each[0], "uint8" if bands == 3 else "uint16", each[1], each[2], None, each[3], each[4], (), (64, 64)
    )
    fake = FakeAccelerator()
    monkeypatch.setattr(ops, "_compiled", lambda name: on_gpu)
    for name in ("resample_kernel", "hue_kernel", "blur_kernel", "finish_kernel"):
        monkeypatch.setattr(on_gpu, name, Kernel(name, fake))
    with fake:
        x = torch.empty((256, bands, stored, stored), dtype=kind, device=CUDA)
        made = views.render(x, torch.arange(256), Preprocess(card, size, each[3], each[4]), seed=0, epoch=0, views=2)
    assert made.shape == (2, 256, bands, size, size) and made.device == CUDA
    assert sum(fake.operations.values()) <= most and fake.bytes < gigabytes * 1e9
    assert len(fake.copies) == 1 and fake.reads == 0
