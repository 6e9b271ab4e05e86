"""A step of every method on an accelerator that is not there (fake_accelerator.py): nothing mixes devices, nothing
waits for the device, and what goes to it goes in few copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from rsssl.augment import on_gpu, ops
from rsssl.batch import Batch
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source
from rsssl.engine import device as device_module
from rsssl.engine.device import autocast
from rsssl.groups import group_options
from rsssl.models.preprocess import Preprocess
from tests.fake_accelerator import CUDA, FakeAccelerator, Kernel
from tests.workshop import method_of

METHODS = [name for name in group_options("ssl") if name not in ("none", "seasonal", "distil")]
DRAWS = (
    "inpainting",
    "jigsaw",
    "relative",
    "rotation",
    "colorization",
    "mae",
    "simmim",
    "moco_v2",
    "marta",
)  # of their own


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    """The accelerator, with bfloat16 and Triton's kernels counted in place of run."""
    fake = FakeAccelerator()
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(device_module, "sent", lambda x, device: x.to(device))  # no memory to pin
    monkeypatch.setattr(ops, "_compiled", lambda name: on_gpu)
    for name in ("resample_kernel", "hue_kernel", "blur_kernel", "finish_kernel"):
        monkeypatch.setattr(on_gpu, name, Kernel(name, fake))
    return fake


def put(module: nn.Module, fake: FakeAccelerator) -> None:
    """A module's parameters and buffers on the accelerator."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(fake.of(p.detach()), requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = fake.of(b)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_nothing_and_copies_little(name: str, gpu: FakeAccelerator, pack_of_tiles: Path) -> None:
    method, cfg = method_of(name)
    pack = Pack.open(pack_of_tiles)
    views: Any = instantiate(cfg.augment, _convert_="all")
    preprocess = Preprocess(pack.card, 16, pack.card.mean, pack.card.std)
    pool = Pool([Source(pack, np.arange(len(pack.paths)))])
    batches = PoolBatches(
        pool, views, method.n_views, preprocess, Sampling(8, 1, 0, "order", steps=9), CUDA, local=method.uses_local
    )
    method.train()
    with gpu:
        put(method, gpu)
        gpu.copies.clear()
        batch = batches.again(0, np.arange(8), 0)
        for_views = len(gpu.copies)
        with autocast(CUDA):
            outputs = method(batch)
        method.after_step(0, 9)
    assert outputs["loss"].device == CUDA and outputs["loss"].dtype == torch.float32
    assert all(value.device == CUDA for value in outputs.values())
    assert gpu.reads == 0 and for_views <= 2 + method.uses_local
    assert len(gpu.copies) - for_views <= 2 * name.startswith(DRAWS)
    assert {key for key in gpu.operations if key.startswith("triton")} >= {"triton::resample_kernel"}


class OnMeta(torch.autocast):
    """torch has no autocast for its device without content."""

    def __init__(self, device_type: str, *arguments: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *arguments, **options)


@pytest.mark.parametrize("name", METHODS)
def test_a_backward_pass_reads_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without content, where whatever needs a value raises; the accelerator above cannot run backward."""
    monkeypatch.setattr(torch, "autocast", OnMeta)
    method = method_of(name)[0].train().to("meta")
    views = torch.empty(method.n_views, 8, 3, 16, 16, device="meta")
    local = torch.empty(2, 8, 3, 8, 8, device="meta") if method.uses_local else None
    loss = method(Batch(torch.arange(8), 0, views, local=local, key=1))["loss"]
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()
    loss.backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert trained and all(p.grad is None or p.grad.is_meta for p in trained)
    assert sum(p.grad is not None for p in trained) > len(trained) // 2
