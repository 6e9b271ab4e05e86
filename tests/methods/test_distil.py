"""Distillation: the loss by hand, whose features the teacher gives, and a student that learns."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rsssl.batch import Batch
from rsssl.errors import UserError
from rsssl.evaluation.features import FeatureBank
from rsssl.methods.distil import Distil
from rsssl.networks import teacher as teachers
from rsssl.networks.teacher import Teacher, teacher_file


class Pixels(nn.Module):
    """Features that are the first pixels of an image."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.num_features, self.stretch = n, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stretch * x.flatten(1)[:, : self.num_features]


def test_the_loss_is_one_minus_the_cosine_of_centred_features() -> None:
    torch.manual_seed(0)
    whole = torch.randn(20, 9)
    method = Distil(Pixels(6), 2, lambda numbers: whole[torch.from_numpy(numbers)])
    views, ids = torch.randn(2, 5, 3, 4, 4), torch.tensor([3, 19, 0, 7, 8])
    loss = method(Batch(ids, 0, views))["loss"]
    flat = views.flatten(0, 1).flatten(1)[:, :6].numpy()
    told = flat @ method.head.weight.detach().numpy().T + method.head.bias.detach().numpy()
    want = np.concatenate([whole[ids].numpy()] * 2)
    told, want = told - told.mean(0), want - want.mean(0)
    cosine = (told * want).sum(1) / np.linalg.norm(told, axis=1) / np.linalg.norm(want, axis=1)
    assert float(loss.detach()) == pytest.approx(1 - cosine.mean(), abs=1e-5)
    loss.backward()
    assert method.backbone.stretch.grad is not None
    assert {n for n, _ in method.named_parameters()} == {"backbone.stretch", "head.weight", "head.bias"}


def test_a_number_of_the_pool_gets_the_features_of_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two datasets, of which some rows are in the pool."""
    banks = [
        FeatureBank(
            tmp_path / str(i), 10, lambda rows, i=i: torch.from_numpy(np.stack([rows + 100 * i, rows * 0], 1)).float()
        )
        for i in range(2)
    ]
    left = iter(banks)
    monkeypatch.setattr(teachers, "feature_bank", lambda *_: next(left))
    monkeypatch.setattr(teachers, "from_file", lambda *_: None)
    parts: Any = [SimpleNamespace(pack=None)] * 2
    run: Any = SimpleNamespace(store=None, device=None)
    teacher = Teacher(tmp_path, parts, [np.array([2, 5, 9]), np.array([1, 4])], run)
    assert teacher(np.array([3, 0, 2, 4]))[:, 0].tolist() == [101, 2, 9, 104]


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"type ssl\.teacher=DIR"):
        teacher_file({"teacher": None}, None)  # type: ignore[arg-type]
    assert teacher_file({"views": 2}, None) is None  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^ssl\.teacher=\S*nowhere holds .* type ssl\.teacher=DIR"):
        teacher_file({"teacher": str(tmp_path / "nowhere")}, SimpleNamespace(root=tmp_path))  # type: ignore[arg-type]


def test_a_student_learns_from_a_run_folder_and_the_teacher_is_part_of_its_hash(workshop, tmp_path: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(24):
        (tmp_path / "tiles" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = (60 + 90 * (i % 2) + random.integers(0, 80, (32, 32, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "tiles" / "ab"[i % 2] / f"{i}.png")
    common = [
        *("task=pretrain", "dataset=folder", "dataset.root=tiles", "start=random", "backbone.name=resnet10t"),
        *("pretrain.batch_size=8", "pretrain.probes=0", "pretrain.pictures=0", "tracker=csv", "workers=1"),
    ]
    folders = []
    for seed in (0, 1):
        workshop.run(tmp_path, *common, "pretrain.epochs=1", f"pretrain.seed={seed}", f"hydra.run.dir=big{seed}")
        student = [
            "ssl=distil",
            f"ssl.teacher=big{seed}",
            "pretrain.epochs=20",
            "pretrain.log_every=1",
            "pretrain.lr=1e-2",
        ]
        small = "+backbone.kwargs.channels=[8,8,16,16]"
        workshop.run(tmp_path, *common, *student, small, f"hydra.run.dir=small{seed}")
        record = json.loads((tmp_path / f"small{seed}" / "pretrain.json").read_text())["pretrain"]
        folders.append(Path(record["folder"]))
    assert folders[0] != folders[1]
    lines = [line.split(",") for line in (folders[0] / "metrics.csv").read_text().splitlines()]
    column = {name: i for i, name in enumerate(lines[0])}
    losses = [float(line[column["value"]]) for line in lines[1:] if line[column["name"]] == "loss"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05, losses
    text = workshop.run(tmp_path, *common, "ssl=distil", "hydra.run.dir=none", exits=2)
    assert "type ssl.teacher=DIR" in text
