"""Every YAML becomes the object that it describes, and every experiment takes two steps on images made here."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from rsssl.compose import Composer, composed
from rsssl.groups import group_options
from rsssl.jobs import configured, prepared
from rsssl.models.backbone import read_backbone
from rsssl.networks.pretraining import pretrain

CONF = Path(__file__).resolve().parents[1] / "conf"
LARGE = ("hidden", "out", "prototypes", "queue", "bottleneck", "predictor", "width")  # sizes of heads


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as found:
        yield found


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten RGB images of 64 pixels."""
    root, random = tmp_path_factory.mktemp("dry") / "tiles", np.random.default_rng(0)
    for i in range(20):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "ab"[i % 2] / f"{i}.png")
    return root


def made_small(cfg: DictConfig, tiles: Path) -> DictConfig:
    """The same experiment on these tiles, with a small network of its kind, small heads and a small batch."""
    cfg.dataset.root, cfg.paths.store, cfg.workers, cfg.device = str(tiles), str(tiles.parent / "store"), 1, "cpu"
    transformer = cfg.backbone.name.startswith("vit")
    cfg.backbone.name = "vit_tiny_patch16_224" if transformer else "resnet10t"
    narrow = {"depth": 2, "embed_dim": 48} if transformer else {"channels": [16, 16, 32, 32], "stem_width": 8}
    cfg.backbone.kwargs = dict(cfg.backbone.kwargs) | narrow
    cfg.start = {"_target_": "rsssl.networks.starts.Start"}
    for key in LARGE:
        if isinstance(cfg.ssl.get(key), int) and cfg.ssl[key] > 64:
            cfg.ssl[key] = 64
    if "size" in cfg.ssl:
        cfg.ssl.size = 64
    cfg.pretrain.image_size, cfg.pretrain.batch_size, cfg.pretrain.steps = 64, 8, 2
    cfg.pretrain.log_every, cfg.pretrain.probes, cfg.pretrain.pictures = 1, 0, 0
    return cfg


@pytest.mark.parametrize("name", group_options("experiment"))
def test_an_experiment_takes_two_steps(name: str, composer: Composer, tiles: Path, tmp_path: Path) -> None:
    """From its YAML through the pre-training task to weights in a file: all its parts fit together."""
    small = made_small(composed(composer, [f"experiment={name}", "dataset=folder", "tracker=csv"]), tiles)
    task, run = prepared(small, {"task": "pipeline", "ssl": name}, tmp_path / "run")
    record = pretrain(task, task.dataset, run)
    with open(Path(record["folder"]) / "metrics.csv") as file:
        losses = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    trained, _ = read_backbone(record["weights"])
    start = instantiate(small.backbone, in_chans=3, seed=small.pretrain.seed).state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in trained.state_dict().items() if k.endswith("weight"))


GROUPS = ("augment", "schedule", "optimizer", "evaluate", "tracker")
OPTIONS = [p for group in GROUPS for p in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", OPTIONS, ids=[f"{p.parent.name}={p.stem}" for p in OPTIONS])
def test_an_option_becomes_its_object(path: Path) -> None:
    """Its keys are arguments of the class that it names: composition alone lets any key of an open group through."""
    arguments: dict[str, Any] = (
        {"params": [torch.nn.Parameter(torch.zeros(1))]} if path.parent.name == "optimizer" else {}
    )
    made = configured(path.parent.name, path.stem, **arguments)
    assert f"{type(made).__module__}.{type(made).__name__}".startswith(("rsssl.", "torch.optim."))
