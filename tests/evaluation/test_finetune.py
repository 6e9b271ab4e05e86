"""Fine-tuning looks at its memory first, on a copy, so that nothing is learnt by looking; self-training learns from
soft labels."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rsssl import load_classifier
from rsssl.batch import Batch
from rsssl.engine import memory
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.finetune import Lessons
from rsssl.evaluation.job import Job
from rsssl.evaluation.network_fit import Classifier, Finetuning, fitting
from rsssl.jobs import _option, configured
from rsssl.models.preprocess import Preprocess

ZEROS = torch.zeros(2, 5), torch.zeros(2)  # the layer of a classifier
RATES: Any = {"backbone_lr": 0.01, "rank": None, "title": "finetune"}
KEPT = (3 + 5 + 5) * 16 * 16 * 4  # bytes of an image: what the convolution and the normalisation take, and their result


class Net(nn.Sequential):
    num_features = 5

    def __init__(self, norm: bool) -> None:
        middle = nn.BatchNorm2d(5) if norm else nn.Sigmoid()
        super().__init__(nn.Conv2d(3, 5, 1), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Batches:
    def ids(self, cursor: int) -> tuple[int, Any]:
        return 0, torch.arange(8).numpy()

    def again(self, epoch: int, ids: Any, step: int) -> Any:
        return SimpleNamespace(views=torch.randn(1, len(ids), 3, 16, 16), ids=torch.from_numpy(ids))


def test_what_does_not_fit_is_said_with_a_batch_that_does_and_nothing_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Classifier(Net(norm=True), ZEROS, torch.zeros(8).long())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    assert fitting(model, Batches(), torch.device("cpu")) is None
    monkeypatch.setattr(memory, "available", lambda device: int(1.3 * 3.7 * KEPT))
    with pytest.raises(UserError, match=r"8 images x 1 views of 16 pixels .* finetune\.batch_size=[23]$"):
        fitting(model, Batches(), torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_batch_norm_it_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: int(1.3 * 7 * KEPT / 0.9))
    assert fitting(Classifier(Net(norm=False), ZEROS, torch.zeros(8).long()), Batches(), torch.device("cpu")) in (
        1,
        2,
        3,
        4,
    )


def test_soft_labels_are_those_of_the_images_in_the_batch() -> None:
    soft = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5]])
    model = Classifier(Net(norm=False), (torch.randn(2, 5), torch.randn(2)), soft)
    ids, views = torch.tensor([2, 0, 1, 1]), torch.randn(1, 4, 3, 8, 8)
    loss = model(Batch(ids, 0, views, labels=-torch.ones(4).long()))["loss"]
    logits = model.backbone(views[0]) @ model.weight.T + model.bias
    by_hand = [-(soft[i] * row.log_softmax(0)).sum() for i, row in zip(ids, logits, strict=True)]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())


@pytest.mark.parametrize("evaluate", ["selftrain", "finetune"])
def test_what_is_trained_is_kept_whole_and_of_plain_layers(evaluate: str, workshop, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "tiles" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = (60 + 60 * (i % 2) + random.integers(0, 80, (32, 32, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "tiles" / "ab"[i % 2] / f"{i}.png")
    words = ["task=evaluate", "dataset=folder", "dataset.root=tiles", "ssl=none", "start=random", "workers=1"]
    words += ["backbone.name=resnet10t", "ts=3", "baselines=false", "hydra.run.dir=run"]
    workshop.run(tmp_path, *words, f"evaluate={evaluate}", "finetune.steps=10", "finetune.lr=2e-2")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    details = results["details"]
    assert results["n_train"] == 6 and results["oa"] > 0.7
    if evaluate == "finetune":
        losses = {int(step): loss for step, loss in details["log_loss"].items()}
        assert sorted(losses) == list(range(11)) and details["held_out"] == 6
        assert details["steps"] == min(losses, key=lambda step: losses[step])
    else:
        assert details["steps"] == 10
    network: Any = load_classifier(tmp_path / "run")
    assert not [name for name, _ in network.named_parameters() if "parametrizations" in name]
    files = sorted((tmp_path / "tiles").glob("*/*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(p)) for p in files])).permute(0, 3, 1, 2)
    truth = torch.tensor(["ab".index(p.parent.name) for p in files])
    assert float((network(pixels).argmax(1) == truth).double().mean()) > 0.7


def test_how_long_it_is_taught_never_sees_a_test_image(packed, root: Path, tmp_path: Path) -> None:
    pack = packed(root)
    card = pack.card
    weights: Any = SimpleNamespace(
        build=lambda: Net(norm=True), preprocess=Preprocess(card, 32, card.mean, card.std), hash="x", spec={}
    )
    train = np.concatenate([np.flatnonzero(pack.labels == c)[:4] for c in (0, 1)])
    test = np.setdiff1d(np.arange(12), train)
    found = []
    for turn in range(2):
        labels = pack.labels.copy()
        labels[test] = 1 - labels[test] if turn else labels[test]
        other = copy.copy(pack)
        other._columns = {**pack._columns, "labels": lambda labels=labels: labels}
        data: Any = SimpleNamespace(pack=other, split=SimpleNamespace(hash="x"), ground=None)
        job = Job(data, Store(tmp_path), torch.device("cpu"), train, test, 0, "clean", False)
        options = {name: _option(name, choice) for name, choice in (("optimizer", "adamw"), ("schedule", "cosine"))}
        how = Finetuning(configured("augment", "d4"), **options, epochs=1, steps=10, batch_size=8, lr=0.1, **RATES)
        figures, fit, sharpness = Lessons(job, weights, how, None, None).taught(held_out=2)
        details = figures["details"]
        details.pop("seconds")
        found.append((figures["oa"], details, sharpness, fit.model.state_dict()))
    (oa, details, sharpness, state), (other, *same) = found
    assert other == pytest.approx(1 - oa) and same[0] == details and same[1] == sharpness
    assert all(torch.equal(state[k], v) for k, v in same[2].items())
    assert details["held_out"] == 4 and details["steps"] in range(1, 11)
