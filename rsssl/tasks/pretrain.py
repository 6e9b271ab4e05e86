"""`task=pretrain`, and the pipeline's first half: a backbone trained on unlabelled images, kept in the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from rsssl import rng
from rsssl.augment import prepare
from rsssl.data.loader import Pool, PoolBatches, Source, stored
from rsssl.data.places import Partners, class_folders, place_names
from rsssl.data.prepared import Data, load, pretraining_configs, statistics
from rsssl.engine import distributed
from rsssl.engine.batch_norm import over_all_ranks
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.files import sha256, write_json
from rsssl.engine.loop import Fit, on_device, pick_device
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.ranks import alone
from rsssl.engine.resume import resumed
from rsssl.engine.store import Artifact, Store, digest
from rsssl.errors import UserError
from rsssl.evaluation.online_probe import OnlineProbe
from rsssl.methods.base import Method
from rsssl.models.backbone import save_backbone
from rsssl.models.batch_norm import recalibrate
from rsssl.models.maps import patch_side
from rsssl.optim import parameter_groups
from rsssl.report.pictures import Pictures
from rsssl.tasks.common import canonical, group_name, keep_metrics, own_code, run_folder, save_config

log = logging.getLogger(__name__)
VERSION = 2  # raised when a change of the code changes what the same inputs train to
WEIGHTS = "backbone.safetensors"
RECALIBRATION = 1024  # images of each dataset
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
    start_from: Path | None = None  # another training's checkpoint

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
    for key in ("dataset", "root", "resume", "log_every", "checkpoint_minutes", "probes", "pictures"):
        settings.pop(key)
    for key, nothing in (("steps", None), ("accumulate", 1)):
        if settings[key] == nothing:
            settings.pop(key)
    inputs = {
        "version": VERSION,
        "data": [{"name": d.pack.card.name, "pixels": d.pack.fingerprint, "split": d.split.hash} for d in parts],
        "pretrain": settings | {"image_size": size, "lr": lr},
        **{
            g: canonical(OmegaConf.to_container(cfg[g], resolve=True))
            for g in ("ssl", "augment", "optimizer", "schedule", "backbone")
        },
    }
    if cfg.backbone.weights:
        inputs["weights"] = file_hash(cfg.backbone.weights)
    if cfg.ssl.get("together"):
        inputs["places"] = digest({"places": place_of_each(Pool(sources(parts, indices)), parts, cfg.ssl.together)})
    if code := own_code(inputs):
        inputs["code"] = code
    start_from = None
    if cfg.pretrain.resume:
        one = resumed(cfg.pretrain.resume, inputs, store) if distributed.rank() == 0 else None
        start_from, inputs["resumed"] = distributed.broadcast(one)
    return Pretraining(parts, indices, size, mean, std, lr, inputs, start_from)


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


def stage_size(size: int, progressive: list[tuple[float, float]], multiple: int = 2) -> Any:
    """(step, total) -> pixels: the size of the schedule's stage that the step falls in, multiples of `multiple`, 16 at least."""

    def at(step: int, total: int) -> int:
        for until, scale in progressive:
            if step < until * total:
                return min(size, max(16, multiple * round(size * scale / multiple)))
        return size

    return at


def sources(parts: list[Data], indices: list[np.ndarray]) -> list[Source]:
    return [Source(d.pack, i) for d, i in zip(parts, indices, strict=True)]


TOGETHER_HINT = (
    "type ssl.together=folder for place_1/january.tif place_1/july.tif, or ssl.together=name for january/place_1.tif "
    "july/place_1.tif, or ssl=simclr for tiles of different places"
)


def place_of_each(pool: Pool, parts: list[Data], together: str) -> list[str]:
    """The place of each image of the pool, by the layout of the folders (see data/places.py).

    Raises:
        UserError: when the folders are the classes, so that a place would be a label.
    """
    places = []
    for number, (data, source) in enumerate(zip(parts, pool.sources, strict=True)):
        paths = [data.pack.paths[i] for i in source.indices]
        if together == "folder" and not all("/" in p for p in paths):
            raise UserError(
                f"ssl.together=folder: images of {data.dataset.root} lie in no folder of a place; {TOGETHER_HINT}"
            )
        if together == "folder" and class_folders(paths, data.pack.card.classes):
            raise UserError(
                f"ssl.together=folder: the folders of {data.dataset.root} are its classes, so tiles would be paired by label; "
                "put the tiles of a place into a folder of their own, class/place/date.tif, or type ssl.together=name"
            )
        places += [f"{number}/{name}" for name in place_names(paths, together)]
    return places


def check_size(backbone: nn.Module, size: int) -> None:
    """Raises UserError when a transformer's patches do not divide the images."""
    side = patch_side(backbone)
    if size % side:
        raise UserError(
            f"this transformer cuts images into patches of {side} pixels, and {size} is no multiple of it: "
            f"type pretrain.image_size={max(side, side * round(size / side))}"
        )


def pretrain(cfg: DictConfig, store: Store) -> tuple[Artifact, Pretraining]:
    """The pre-trained backbone of this config: from the store, or trained now."""
    todo = plan(cfg, store)
    if distributed.rank() == 0:  # now, so that pretrain.resume finds the training of a run that has not ended
        write_json(run_folder() / "pretrain.json", {"pretrain": {"folder": str(store.folder("pretrain", todo.inputs))}})
    artifact = store.get("pretrain", todo.inputs, lambda folder: train(cfg, todo, folder), together=True)
    if distributed.rank() == 0:
        keep_metrics(artifact.folder, run_folder())
    return artifact, todo


@dataclass(frozen=True)
class Training:
    """What a pre-training is made of, on this rank: built the same way to train and to replay a step."""

    method: Method
    batches: PoolBatches
    device: torch.device


def assemble(cfg: DictConfig, todo: Pretraining) -> Training:
    """The method with its backbone, and its batches."""
    device = pick_device(cfg.device)
    backbone = instantiate(cfg.backbone, in_chans=todo.parts[0].pack.card.n_bands, seed=cfg.pretrain.seed)
    check_size(backbone, todo.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("method", cfg.pretrain.seed) % 2**63)
        method: Method = instantiate(cfg.ssl, backbone=backbone)
    on_device(over_all_ranks(method), device)
    if cfg.compile:
        distributed.keep_from_compiler()
        method.backbone.compile(mode=cfg.compile)  # in place: the names of the weights stay
    pool = Pool(sources(todo.parts, todo.indices))
    partners = Partners(place_of_each(pool, todo.parts, method.together), TOGETHER_HINT) if method.together else None
    if partners and partners.alone:
        log.warning(
            "%d of %d tiles are the only ones of their place: their positives are crops of themselves",
            partners.alone,
            len(pool),
        )
    batches = PoolBatches(
        pool,
        instantiate(cfg.augment, _convert_="all"),
        method.n_views,
        cfg.pretrain.batch_size,
        cfg.pretrain.epochs,
        stage_size(
            todo.size, [(float(u), float(s)) for u, s in cfg.pretrain.progressive], max(2, patch_side(backbone))
        ),
        todo.mean,
        todo.std,
        cfg.pretrain.seed,
        "+".join(d.split.hash for d in todo.parts),
        device,
        cfg.pretrain.steps,
        method.uses_local,
        partners,
        cfg.pretrain.accumulate,
    )
    if cfg.pretrain.batch_size > len(pool):
        log.warning(
            "pretrain.batch_size=%d is more than the pool's %d images; a batch is the pool",
            cfg.pretrain.batch_size,
            len(pool),
        )
    return Training(method, batches, device)


def train(cfg: DictConfig, todo: Pretraining, folder: Path) -> None:
    """One pre-training in `folder`, resumed from its last checkpoint if it was interrupted."""
    made = assemble(cfg, todo)
    method, batches, device = made.method, made.batches, made.device
    optimizer = instantiate(
        cfg.optimizer, lr=todo.lr, params=parameter_groups(*method.trained_modules()), _convert_="all"
    )
    epochs = round(batches.total_steps / batches.steps_per_epoch, 2)
    log.info(
        "%d images, %g epochs, %d steps of %d images x %d views on %s%s",
        todo.n_images,
        epochs,
        batches.total_steps,
        batches.batch_size * batches.accumulate,
        method.n_views,
        device,
        f", {distributed.world_size()} processes" if distributed.world_size() > 1 else "",
    )
    tracker, checkpoints = instantiate(cfg.tracker), Checkpoints(folder)
    probe = OnlineProbe(method.backbone, todo.parts[0], todo.size, todo.mean, todo.std, device)
    pictures = Pictures(method, batches, todo.parts[0].pack.card, todo.mean, todo.std, folder, tracker)
    if distributed.rank() == 0:
        save_config(cfg, folder)
    fit = Fit(
        model=method,
        batches=batches,
        optimizer=optimizer,
        schedule=instantiate(cfg.schedule, _convert_="all"),
        device=device,
        tracker=tracker,
        checkpoints=checkpoints,
        checkpoint_minutes=cfg.pretrain.checkpoint_minutes,
        log_every=cfg.pretrain.log_every,
        meanwhile=[(cfg.pretrain.probes if probe.usable else 0, probe), (cfg.pretrain.pictures, pictures)],
        monitor=CollapseMonitor(),
        title=group_name("ssl"),
        seed=cfg.pretrain.seed,
        timeout=cfg.timeout,
        start_from=todo.start_from,
        advice=f"type the same command with task=replay to see which images and which layer it was, and with "
        f"pretrain.resume={folder} and a lower pretrain.lr= (it was {todo.lr:g}) to go on from the last checkpoint",
    )
    fit.run()
    if distributed.rank() > 0:
        return
    if not method.whole_images:
        with alone():  # the same images for any number of ranks
            recalibrate(method.backbone, whole_images(todo, device))
    save(method.backbone, todo, folder)
    write_json(
        folder / "training.json",
        {
            "images": todo.n_images,
            "epochs": epochs,
            "steps": batches.total_steps,
            "seconds": fit.seconds,
            "images_per_second": fit.images / max(fit.seconds, 1e-9),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
        },
    )
    checkpoints.keep_newest()


def whole_images(todo: Pretraining, device: torch.device) -> Iterator[Tensor]:
    """Some of the images trained on, as the evaluation will see them."""
    for data, rows in zip(todo.parts, todo.indices, strict=True):
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), RECALIBRATION)).astype(np.int64)]
        for part in np.array_split(some, -(-len(some) // 128)):
            x = stored(data.pack, part, device)
            yield prepare(x, data.pack.card, todo.size, todo.mean, todo.std)


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
    write_json(
        folder / "pretrain.json", {"pretrain": {"artifact": artifact.hash, "folder": str(artifact.folder)} | training}
    )
    print(
        f"{'reused' if artifact.reused else 'pre-trained'} on {todo.n_images} images in {training['seconds']:.0f} s: "
        f"{artifact.folder / WEIGHTS}"
    )
