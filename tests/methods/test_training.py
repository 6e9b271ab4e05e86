"""Every method on real imagery of 13 bands: thirty steps lower its loss and keep the embedding from collapsing.

What each method needs against collapse is taken away in turn, and the same thirty steps then show the collapse.
"""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

import rsssl
from rsssl.compose import Composer, composed
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.pool import Pool, Source
from rsssl.engine.monitor import effective_rank, embedding_std
from rsssl.groups import group_options
from rsssl.methods.base import Method
from rsssl.models.preprocess import Preprocess
from rsssl.objects import plain
from rsssl.optim import parameter_groups

METHODS = [
    m for m in group_options("ssl") if m not in ("none", "seasonal", "distil")
]  # seasonal is SimCLR; its pairs: test_places
STEPS, IMAGES, SIZE = 30, 32, 32
NARROW = ["+backbone.kwargs.channels=[32,64,128,256]"]  # half of a ResNet's
SMALL = {  # what makes thirty steps long enough
    "moco_v2": [
        "ssl.queue=64"
    ],  # soon full of real keys, which are harder to tell from one's own than its random start
    "jigsaw2x2": ["pretrain.lr=0.003"],
    "jigsaw3x3": ["pretrain.lr=0.003"],
    "dino": ["ssl.prototypes=64", "ssl.centre_momentum=0.5"],  # the centre has settled when the first losses are taken
}


@pytest.fixture(scope="module")
def eurosat(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The 200 images of EuroSAT's 13-band sample, packed."""
    with Composer() as composer:
        config = plain(composed(composer, ["dataset=eurosat_ms", f"dataset.root={shared_data / 'EuroSAT_MS'}"]).dataset)
    folder = tmp_path_factory.mktemp("eurosat") / "pack"
    pack(rsssl.dataset(**{k: v for k, v in config.items() if k != "_target_"}), folder, 1)
    return Pack.open(folder)


def build(name: str, *overrides: str) -> tuple[Method, Any]:
    """A method with a small backbone, and its config."""
    if "backbone=resnet18" in overrides or name not in ("mae", "dino"):
        network = ["backbone.name=resnet10t", "start=random"]
    else:
        network = ["+backbone.kwargs.depth=3", "start=random"]
    with Composer() as composer:
        cfg = composed(composer, [f"ssl={name}", *network, *overrides])
    torch.manual_seed(0)
    return instantiate(cfg.ssl, backbone=instantiate(cfg.backbone, in_chans=13, seed=0)), cfg


def train(method: Method, cfg: Any, packed: Pack, size: int = SIZE, steps: int = STEPS) -> list[dict[str, Tensor]]:
    """What the method returned at each step, with its own augmentation and optimizer."""
    card = packed.card
    views = instantiate(cfg.augment, _convert_="all")
    epochs = -(-steps * IMAGES // (len(packed.paths) - IMAGES))
    batches = PoolBatches(
        Pool([Source(packed, np.arange(len(packed.paths)))]),
        views,
        method.n_views,
        Preprocess(card, size, card.mean, card.std),
        Sampling(IMAGES, epochs, 0, "order"),
        local=method.uses_local,
    )
    lr = cfg.pretrain.lr or cfg.optimizer.lr
    optimizer = instantiate(cfg.optimizer, params=parameter_groups(*method.trained_modules()), lr=lr, _convert_="all")
    outputs = []
    for step, batch in zip(range(steps), batches.start(0), strict=False):
        out = method(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(step, steps)
        outputs.append({k: v.detach() for k, v in out.items()})
    assert len(outputs) == steps
    return outputs


def change(outputs: list[dict[str, Tensor]]) -> float:
    """The loss of the last steps minus that of the first; the very first see queues, centres and statistics fill."""
    losses = torch.stack([f["loss"] for f in outputs])
    return float(losses[-8:].mean() - losses[3:11].mean())


@pytest.mark.parametrize("name", METHODS)
def test_thirty_steps_lower_the_loss_without_collapse(name: str, eurosat: Pack) -> None:
    method, cfg = build(name, *([] if name in ("mae", "dino") else NARROW), *SMALL.get(name, []))
    outputs = train(method, cfg, eurosat, size=64 if name == "jigsaw3x3" else SIZE)
    assert all(torch.isfinite(f["loss"]) for f in outputs)
    if name == "marta_gan":  # two networks against each other: each is better than at the start against a fixed other
        assert outputs[-1]["discriminator"] < outputs[0]["discriminator"]
    else:
        assert change(outputs) < 0
    embedding = torch.cat([f["embedding"] for f in outputs[-3:]])
    assert embedding_std(embedding) > 0.1 and effective_rank(embedding) > 3


def mutant(cfg: Any, old: str, new: str) -> type[Method]:
    """The method's class with one expression of its source exchanged."""
    package, _, cls = cfg.ssl._target_.rpartition(".")
    name = getattr(importlib.import_module(package), cls).__module__
    source = inspect.getsource(importlib.import_module(name))
    assert source.count(old) == 1, f"{name} has changed: {old}"
    module = types.ModuleType("mutant")
    exec(compile(source.replace(old, new), f"{name} without {old}", "exec"), module.__dict__)
    return getattr(module, cls)


def projected(method: Method, outputs: list[dict[str, Tensor]]) -> Tensor:
    """What the loss compares, for the last step's features."""
    head = method.head if hasattr(method, "head") else method.projector
    with torch.no_grad():
        return head(outputs[-1]["embedding"])


NEEDED = {  # what each needs, as it stands in its source, and what takes its place
    "simsiam": ("z.detach()", "z"),  # the stop-gradient
    "byol": ("self.predictor(self.projector(features))", "self.projector(features)"),  # the predictor
    "dino": ("(teacher - centre)", "teacher"),  # the centring
    "swav": ("sinkhorn(assigned, epsilon)", "(assigned / epsilon).softmax(2)"),  # the even assignment
    "vicreg": ("variance * F.relu(1 - spread)", "0 * F.relu(1 - spread)"),  # the variance term
    "barlow_twins": ("redundancy * off", "0 * off"),  # the redundancy term
}


@pytest.mark.parametrize("name", NEEDED)
def test_without_what_keeps_it_up_the_embedding_collapses(name: str, eurosat: Pack) -> None:
    faster = [] if name == "vicreg" else [*NARROW]
    faster += ["augment=rs"] if name in ("byol", "simsiam") else []
    faster += ["ssl.momentum=0.99"] if name == "byol" else []
    rate = 0.002 if name == "simsiam" else 0.001  # slower, and rounding decides how far it has come after thirty steps
    sound, cfg = build(name, "backbone=resnet18", "ssl.views=2", f"pretrain.lr={rate}", *faster)
    arguments = {k: v for k, v in plain(cfg.ssl).items() if k != "_target_"}
    torch.manual_seed(0)
    broken = mutant(cfg, *NEEDED[name])(
        backbone=instantiate(cfg.backbone, in_chans=13, seed=0),
        **arguments,  # type: ignore[arg-type]
    )
    embeddings = [projected(m, train(m, cfg, eurosat)) for m in (sound, broken)]
    std, rank = [embedding_std(z) for z in embeddings], [effective_rank(z) for z in embeddings]
    if name == "barlow_twins":  # its dimensions still vary, but all alike
        assert rank[0] > 15 and rank[1] < 10
    else:
        assert std[0] > 0.5 and std[1] < 0.75 * std[0]
        assert rank[1] < 0.75 * rank[0] or std[1] < 0.45
