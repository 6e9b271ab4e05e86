"""The kernels of accelerators, run on a CPU by Triton's interpreter, give the views that the CPU's loops give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
BOTH = """
import torch
from rsssl.augment import BandGain, Blur, Colour, Grayscale, Policy, RandomAreaCrop, Resize, Symmetry, ops
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess

operations = [
    RandomAreaCrop(area=(0.3, 1.0), p=0.8), Symmetry(p=0.9), Colour(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(p=0.3),
    BandGain(0.2, 0.1, p=0.5), Blur(p=0.5), Colour(contrast=0.5, p=0.5), Blur(kernel=5, kind="gaussian"),
]
compiled = ops._compiled
for bands, dtype, nodata in ((1, "float32", 0.25), (3, "uint8", None), (5, "uint16", 9.0)):
    random = torch.Generator().manual_seed(bands)
    x = torch.randint(0, 256, (2, bands, 20, 24), generator=random).to(getattr(torch, dtype))
    each = [(v,) * bands for v in ("b", 0.0, 255.0, 0.4, 0.2)]
    card = SensorCard("t", each[0], dtype, each[1], each[2], nodata, each[3], each[4], (), (1, 1))
    for first, size in ((True, 16), (False, 28)):
        policy, how = Policy([Resize(6), *operations] if first else operations), Preprocess(card, size, (0.3,) * bands,
                                                                                             (0.5,) * bands)
        made = []
        for name in ("on_cpu", "on_gpu"):
            ops._compiled = lambda asked: compiled(name)
            views = policy.views(x.to(torch.int32) if dtype == "uint16" else x, torch.arange(2), [1, 2], how)
            made.append(views)
        torch.testing.assert_close(*made, atol=2e-5, rtol=0)
        assert float(made[0].std()) > 0.1
print("the same")
"""


def test_triton_kernels_are_the_loops_of_the_cpu(loops: str, tmp_path: Path) -> None:
    if loops == "torch":
        pytest.skip("it compares the two compiled ones")
    env = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", BOTH], env=env, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "the same", ended.stderr[-3000:]
