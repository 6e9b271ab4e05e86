"""`task=pretrain`, and the pipeline's first half: a backbone trained on unlabelled images, kept in the store."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rsssl import rng
from rsssl.data.loader import Pool, PoolBatches, Source
from rsssl.engine import distributed
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.files import sha256, write_json
from rsssl.engine.loop import Fit, on_device, pick_device
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.store import Artifact, Store
from rsssl.errors import UserError
from rsssl.methods import Method
from rsssl.models import save_backbone
from rsssl.optim import parameter_groups
from rsssl.tasks.common import group_name, keep_metrics, own_code, run_folder, save_config
from rsssl.tasks.data import Data, load, pretraining_configs, statistics
from rsssl.tasks.probe import OnlineProbe

log = logging.getLogger(__name__)
VERSION = 2  # raised when a change of the code changes what the same inputs train to
WEIGHTS = "backbone.safetensors"
LARGEST = 224  # pixels of a view unless pretrain.image_size says otherwise: what the field trains at, the paper too


@dataclass(frozen=True)
class Pretraining:
    """All that a pre-training depends on, worked out before it starts."""

    parts: list[Data]
    indices: list[np.ndarray]  # of each part, the rows that are trained on
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lr: float
    inputs: dict[str, Any]

    @property
    def n_images(self) -> int:
        return sum(len(i) for i in self.indices)


def plan(cfg: DictConfig, store: Store) -> Pretraining:
    """Prepares the data and resolves what the config leaves open (image size, learning rate, which images)."""
    instantiate(cfg.augment, _convert_="all")  # a policy that cannot be is said before any data is read
    parts = [load(c, store, cfg.workers, cfg.protocol) for c in pretraining_configs(cfg)]
    indices = draw(parts, cfg.pretrain.images, cfg.pretrain.seed)
    size = view_size(cfg, parts)
    mean, std = statistics(*((d.pack, d.split.pool) for d in parts))
    if cfg.pretrain.standardise == "half":
        mean, std = (0.5,) * len(mean), (0.5,) * len(std)
    lr = cfg.pretrain.lr if cfg.pretrain.lr is not None else cfg.optimizer.lr
    settings = OmegaConf.to_container(cfg.pretrain, resolve=True)
    assert isinstance(settings, dict)
    for key in ("dataset", "root", "log_every", "checkpoint_minutes", "probes"):
        settings.pop(key)
    inputs = {
        "version": VERSION,
        "data": [{"name": d.pack.card.name, "pixels": d.pack.fingerprint, "split": d.split.hash} for d in parts],
        "pretrain": settings | {"image_size": size, "lr": lr},
        **{
            g: OmegaConf.to_container(cfg[g], resolve=True)
            for g in ("ssl", "augment", "optimizer", "schedule", "backbone")
        },
    }
    if cfg.backbone.weights:
        inputs["weights"] = file_hash(cfg.backbone.weights)
    if code := own_code(inputs):
        inputs["code"] = code
    return Pretraining(parts, indices, size, mean, std, lr, inputs)


def view_size(cfg: DictConfig, parts: list[Data]) -> int:
    """`pretrain.image_size`, else the images' own size up to LARGEST pixels."""
    return cfg.pretrain.image_size or min(LARGEST, *(min(d.pack.card.size) for d in parts))


def file_hash(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"backbone.weights={path} is not a file: type backbone.weights=FILE with a .safetensors or .pth file"
        )
    return sha256(file.read_bytes())


def draw(parts: list[Data], images: int | None, seed: int) -> list[np.ndarray]:
    """The pool's rows to train on: all of them, or `images` drawn at random over all parts."""
    pools = [d.split.pool for d in parts]
    total = sum(len(p) for p in pools)
    if images is None or images == total:
        return pools
    if images > total:
        raise UserError(
            f"pretrain.images={images} is more than the {total} images of the pool: type pretrain.images=null for all of them"
        )
    chosen = np.sort(rng.permutation(rng.fold("pretrain images", seed), total)[:images])
    starts = np.cumsum([0, *(len(p) for p in pools)])
    return [p[chosen[(chosen >= a) & (chosen < b)] - a] for p, a, b in zip(pools, starts, starts[1:], strict=False)]


def stage_size(size: int, progressive: list[tuple[float, float]]) -> Any:
    """(step, total) -> pixels: the size of the schedule's stage that the step falls in, even numbers, 16 at least."""

    def at(step: int, total: int) -> int:
        for until, scale in progressive:
            if step < until * total:
                return min(size, max(16, 2 * round(size * scale / 2)))
        return size

    return at


def pretrain(cfg: DictConfig, store: Store) -> tuple[Artifact, Pretraining]:
    """The pre-trained backbone of this config: from the store, or trained now."""
    todo = plan(cfg, store)
    artifact = store.get("pretrain", todo.inputs, lambda folder: train(cfg, todo, folder), together=True)
    if distributed.rank() == 0:
        keep_metrics(artifact.folder, run_folder())
    return artifact, todo


def train(cfg: DictConfig, todo: Pretraining, folder: Path) -> None:
    """One pre-training in `folder`, resumed from its last checkpoint if it was interrupted."""
    device = pick_device(cfg.device)
    card = todo.parts[0].pack.card
    backbone = instantiate(cfg.backbone, in_chans=card.n_bands, seed=cfg.pretrain.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("method", cfg.pretrain.seed) % 2**63)
        method: Method = instantiate(cfg.ssl, backbone=backbone)
    on_device(distributed.synchronised(method, device), device)
    if cfg.compile:
        method.backbone.compile(mode=cfg.compile)  # in place: the names of the weights stay
    optimizer = instantiate(
        cfg.optimizer, lr=todo.lr, params=parameter_groups(*method.trained_modules()), _convert_="all"
    )
    pool = Pool([Source(d.pack, i) for d, i in zip(todo.parts, todo.indices, strict=True)])
    batches = PoolBatches(
        pool, instantiate(cfg.augment, _convert_="all"), method.n_views, cfg.pretrain.batch_size, cfg.pretrain.epochs,
        stage_size(todo.size, [(float(u), float(s)) for u, s in cfg.pretrain.progressive]), todo.mean, todo.std,
        cfg.pretrain.seed, "+".join(d.split.hash for d in todo.parts), device,
    )  # fmt: skip
    if cfg.pretrain.batch_size > len(pool):
        log.warning(
            "pretrain.batch_size=%d is more than the pool's %d images; a batch is the pool",
            cfg.pretrain.batch_size,
            len(pool),
        )
    log.info("%d images, %d epochs, %d steps of %d images x %d views on %s", len(pool), cfg.pretrain.epochs,
             batches.total_steps, batches.batch_size, method.n_views, device)  # fmt: skip
    probe = OnlineProbe(method.backbone, todo.parts[0], todo.size, todo.mean, todo.std, device)
    fit = Fit(
        model=method, batches=batches, optimizer=optimizer, schedule=instantiate(cfg.schedule, _convert_="all"), device=device,
        tracker=instantiate(cfg.tracker), checkpoints=Checkpoints(folder), checkpoint_minutes=cfg.pretrain.checkpoint_minutes,
        log_every=cfg.pretrain.log_every, probe=probe if probe.usable else None, probes=cfg.pretrain.probes,
        monitor=CollapseMonitor(), title=group_name("ssl"), seed=cfg.pretrain.seed,
    )  # fmt: skip
    fit.run()
    if distributed.rank() > 0:
        return
    save(method.backbone, todo, folder)
    write_json(folder / "training.json", {
        "images": len(pool), "epochs": cfg.pretrain.epochs, "steps": batches.total_steps, "seconds": fit.seconds,
        "images_per_second": fit.images / max(fit.seconds, 1e-9), "device": str(device), "threads": torch.get_num_threads(),
    })  # fmt: skip
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    Checkpoints(folder).clear()


def save(backbone: nn.Module, todo: Pretraining, folder: Path) -> None:
    """The weights with their sensor card: bands, valid range, mean and std, size."""
    card = todo.parts[0].pack.card.to_dict() | {"mean": list(todo.mean), "std": list(todo.std)}
    card["classes"] = []
    metadata = {"card": json.dumps(card), "image_size": str(todo.size), "inputs": json.dumps(todo.inputs)}
    save_backbone(backbone.cpu(), folder / WEIGHTS, metadata)


def run(cfg: DictConfig) -> None:
    """`task=pretrain`."""
    artifact, todo = pretrain(cfg, Store(cfg.paths.store))
    if distributed.rank() > 0:
        return
    training = json.loads((artifact.folder / "training.json").read_text())
    folder = run_folder()
    save_config(cfg, folder)
    write_json(folder / "pretrain.json", {"pretrain": {"artifact": artifact.hash, "folder": str(artifact.folder)} | training})
    print(f"{'reused' if artifact.reused else 'pre-trained'} on {todo.n_images} images in {training['seconds']:.0f} s: "
          f"{artifact.folder / WEIGHTS}")  # fmt: skip
