"""The memory's format does not show in results, and weights that we save are anyone's."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from rsssl.engine.device import on_device
from rsssl.jobs import configured
from rsssl.models.backbone import build_backbone, save_backbone


def test_channels_last_gives_the_features_and_the_neighbours_of_contiguous_memory() -> None:
    torch.manual_seed(0)
    images = torch.randn(60, 13, 32, 32)
    labels = torch.arange(60) % 3
    plain, fast = (build_backbone("resnet10t", in_chans=13, seed=0).eval() for _ in range(2))
    on_device(fast, torch.device("cpu"))
    assert next(fast.parameters()).is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        a, b = plain(images), fast(images.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))
    votes = [configured("evaluate", "knn", k=5).fit(f[:30], labels[:30], 3, 0).scores(f[30:]).argmax(1) for f in (a, b)]
    assert torch.equal(votes[0], votes[1])


def test_a_saved_backbone_loads_strictly_in_timm_and_gives_the_same_features(tmp_path: Path) -> None:
    backbone = build_backbone("resnet10t", in_chans=5, seed=3).eval()
    save_backbone(backbone, tmp_path / "backbone.safetensors", {})
    theirs = timm.create_model("resnet10t", in_chans=5, num_classes=0).eval()
    theirs.load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=True)
    images = torch.randn(4, 5, 40, 40)
    with torch.inference_mode():
        assert torch.equal(theirs(images), backbone(images))
