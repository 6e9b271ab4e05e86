"""Pre-training: a backbone and a method trained on unlabelled images, once, and kept in the store."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from rsssl import rng
from rsssl.augment import prepare
from rsssl.data.dataset import Dataset
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.places import Partners
from rsssl.data.pool import Pool, stored
from rsssl.engine import distributed
from rsssl.engine.batch_norm import over_all_ranks
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.device import on_device
from rsssl.engine.files import write_json
from rsssl.engine.loop import Fit
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.ranks import alone
from rsssl.engine.run import Run
from rsssl.errors import UserError
from rsssl.evaluation.online_probe import OnlineProbe
from rsssl.methods.base import Method
from rsssl.models.batch_norm import recalibrate
from rsssl.models.maps import patch_side
from rsssl.networks.files import BACKBONE, write_backbone
from rsssl.networks.plan import PLACES_HINT, Plan, place_of_each, plan
from rsssl.networks.recipe import Recipe
from rsssl.optim import parameter_groups
from rsssl.report.pictures import Pictures

log = logging.getLogger(__name__)
RECALIBRATION = 1024  # images of each dataset


def pretrain(recipe: Recipe, dataset: Dataset, run: Run) -> dict[str, Any]:
    """The pre-trained backbone of a recipe: from the store, or trained now. Under torchrun all ranks train together.

    Returns:
        The record of the training: "weights" (the file), "artifact" (its hash), "folder", "dataset", "images",
        "epochs", "seconds", "images_per_second", "reused", ...
    """
    planned = plan(recipe, dataset, run)
    if distributed.rank() == 0:  # now, so that pretrain.resume finds the training of a run that has not ended
        folder = run.store.folder("pretrain", planned.inputs)
        write_json(run.record("pretrain.json"), {"pretrain": {"folder": str(folder)}})
    artifact = run.store.get("pretrain", planned.inputs, lambda folder: train(planned, run, folder), together=True)
    if distributed.rank() == 0:
        copy_metrics(artifact.folder, run)
    return {
        "artifact": artifact.hash,
        "folder": str(artifact.folder),
        "weights": str(artifact.folder / BACKBONE),
        "dataset": "+".join(d.pack.card.name for d in planned.parts),
        "reused": artifact.reused,
    } | json.loads((artifact.folder / "training.json").read_text())


def copy_metrics(source: Path, run: Run) -> None:
    """Puts a training's metrics.csv, TensorBoard events and pictures into the run folder too, where people look."""
    if (source / "metrics.csv").is_file():
        shutil.copy(source / "metrics.csv", run.record("metrics.csv"))
    for name in ("tensorboard", "pictures"):
        if (source / name).is_dir():
            shutil.copytree(source / name, run.record(name), dirs_exist_ok=True)


@dataclass(frozen=True)
class Training:
    """What a pre-training is made of, on this rank: built the same way to train and to replay a step."""

    method: Method
    batches: PoolBatches
    device: torch.device


def assemble(planned: Plan, device: torch.device) -> Training:
    """The method with its backbone, and its batches."""
    recipe, keys = planned.recipe, planned.recipe.pretrain
    backbone = instantiate(recipe.backbone, in_chans=planned.preprocess.card.n_bands, seed=keys.seed)
    check_size(backbone, planned.preprocess.size)
    stages = [(float(until), float(scale)) for until, scale in keys.progressive]
    size_at = stage_size(planned.preprocess.size, stages, max(2, patch_side(backbone)))
    try_size(backbone, planned.preprocess.card.n_bands, size_at(0, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("method", keys.seed) % 2**63)
        method = make_method(recipe.ssl, backbone)
    on_device(over_all_ranks(method), device)
    if recipe.compile:
        distributed.keep_from_compiler()
        method.backbone.compile(mode=recipe.compile)  # in place: the names of the weights stay
    partners = Partners(place_of_each(planned, method.together), PLACES_HINT) if method.together else None
    pool = Pool(planned.sources, partners=partners)
    if partners and partners.alone:
        log.warning(
            "%d of %d tiles are the only ones of their place: their positives are crops of themselves",
            partners.alone,
            len(pool),
        )
    sampling = Sampling(
        batch_size=keys.batch_size,
        epochs=keys.epochs,
        seed=keys.seed,
        key="+".join(d.split.hash for d in planned.parts),
        steps=keys.steps,
        accumulate=keys.accumulate,
        size_at=size_at,
    )
    views = instantiate(recipe.augment, _convert_="all")
    batches = PoolBatches(pool, views, method.n_views, planned.preprocess, sampling, device, local=method.uses_local)
    if keys.batch_size > len(pool):
        log.warning(
            "pretrain.batch_size=%d is more than the pool's %d images; a batch is the pool", keys.batch_size, len(pool)
        )
    return Training(method, batches, device)


def make_method(node: dict[str, Any], backbone: nn.Module) -> Method:
    """The method of a configuration; UserError when it is none, or its constructor left out that of `Method`."""
    name = str(node["_target_"]).rpartition(".")[2]
    try:
        method = instantiate(node, backbone=backbone)
    except InstantiationException as error:
        if "__init__() call" not in str(error.__cause__):  # torch's, for a module that is set before
            raise
        method = None
    if not isinstance(method, Method) or not hasattr(method, "n_views"):
        raise UserError(
            f"{name} is not a method yet: write class {name}(Method), and begin its __init__ with "
            "super().__init__(backbone, views)"
        )
    return method


def check_size(backbone: nn.Module, size: int) -> None:
    """Raises UserError when a transformer's patches do not divide the images."""
    side = patch_side(backbone)
    if size % side:
        raise UserError(
            f"this transformer cuts images into patches of {side} pixels, and {size} is no multiple of it: "
            f"type pretrain.image_size={max(side, side * round(size / side))}"
        )


@torch.inference_mode()
def try_size(backbone: nn.Module, bands: int, size: int) -> None:
    """Raises UserError when a network on the CPU cannot take images as small as the training begins with."""
    training = backbone.training
    try:
        backbone.eval()(torch.zeros(1, bands, size, size))
    except RuntimeError as error:
        raise UserError(
            f"the training begins with images of {size} pixels, and this backbone cannot take them ({error}): type a "
            "larger pretrain.image_size=, or pretrain.progressive=[] for the full size from the first step"
        ) from error
    finally:
        backbone.train(training)


def stage_size(size: int, stages: list[tuple[float, float]], multiple: int = 2) -> Callable[[int, int], int]:
    """(step, total) -> pixels of a view: the stage's share of the size, a multiple of `multiple`, 16 at least."""

    def at(step: int, total: int) -> int:
        for until, scale in stages:
            if step < until * total:
                return min(size, max(16, multiple * round(size * scale / multiple)))
        return size

    return at


def train(planned: Plan, run: Run, folder: Path) -> None:
    """One pre-training in `folder`, resumed from its last checkpoint if it was interrupted."""
    recipe, keys = planned.recipe, planned.recipe.pretrain
    training = assemble(planned, run.device)
    method, batches, device = training.method, training.batches, training.device
    parameters = parameter_groups(*method.trained_modules())
    optimizer = instantiate(recipe.optimizer, lr=planned.lr, params=parameters, _convert_="all")
    epochs = round(batches.total_steps / batches.steps_per_epoch, 2)
    log_size(planned, training, epochs)
    tracker, checkpoints = instantiate(recipe.tracker), Checkpoints(folder)
    ridge = instantiate(run.option("evaluate", "ridge"), _convert_="all")
    probe = OnlineProbe(method.backbone, planned.parts[0], planned.preprocess, ridge, device)
    pictures = Pictures(method, batches, planned.preprocess, folder, tracker)
    if distributed.rank() == 0:
        run.save_config(folder)
    fit = Fit(
        model=method,
        batches=batches,
        optimizer=optimizer,
        schedule=instantiate(recipe.schedule, _convert_="all"),
        device=device,
        tracker=tracker,
        checkpoints=checkpoints,
        checkpoint_minutes=keys.checkpoint_minutes,
        log_every=keys.log_every,
        meanwhile=[(keys.probes if probe.usable else 0, probe), (keys.pictures, pictures)],
        monitor=CollapseMonitor(),
        title=run.options["ssl"],
        seed=keys.seed,
        timeout=run.timeout,
        start_from=planned.start_from,
        advice=f"type the same command with task=replay to see which images and which layer it was, and with "
        f"pretrain.resume={folder} and a lower pretrain.lr= (it was {planned.lr:g}) to go on from the last checkpoint",
    )
    fit.run()
    if distributed.rank() > 0:
        return
    if not method.whole_images:
        with alone():  # the same images for any number of ranks
            recalibrate(method.backbone, whole_images(planned, device))
    inputs = {"inputs": json.dumps(planned.inputs)}
    write_backbone(method.backbone.cpu(), folder / BACKBONE, planned.preprocess, inputs)
    record = {
        "images": planned.n_images,
        "epochs": epochs,
        "steps": batches.total_steps,
        "seconds": fit.seconds,
        "images_per_second": fit.images / max(fit.seconds, 1e-9),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }
    write_json(folder / "training.json", record)
    checkpoints.keep_newest()


def log_size(planned: Plan, training: Training, epochs: float) -> None:
    """One line that says how long the training will be."""
    batches, ranks = training.batches, distributed.world_size()
    images = batches.batch_size * batches.accumulate
    log.info(
        f"{planned.n_images} images, {epochs:g} epochs, {batches.total_steps} steps of {images} images x "
        f"{training.method.n_views} views on {training.device}{f', {ranks} processes' if ranks > 1 else ''}"
    )


def whole_images(planned: Plan, device: torch.device) -> Iterator[Tensor]:
    """Some of the images trained on, as the evaluation will see them."""
    for data, rows in zip(planned.parts, planned.indices, strict=True):
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), RECALIBRATION)).astype(np.int64)]
        for part in np.array_split(some, -(-len(some) // 128)):
            yield prepare(stored(data.pack, part, device), planned.preprocess.of(data.pack.card))
