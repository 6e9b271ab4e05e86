"""Pre-training: a backbone and a method trained on unlabelled images, once, and kept in the store."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from rsssl.augment import prepare
from rsssl.data.dataset import Dataset
from rsssl.data.pool import stored
from rsssl.engine import distributed
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.files import write_json, write_sealed
from rsssl.engine.loop import Fit
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.progress import duration
from rsssl.engine.ranks import alone
from rsssl.engine.run import Run
from rsssl.engine.store import AGAIN, is_kept, keep
from rsssl.errors import UserError
from rsssl.evaluation.online_probe import OnlineProbe
from rsssl.models.batch_norm import recalibrate
from rsssl.networks.budget import Budget, budget_of, done_before, outlook, seconds_of
from rsssl.networks.files import BACKBONE, TRAINING, write_backbone
from rsssl.networks.plan import Plan, plan
from rsssl.networks.recipe import Recipe
from rsssl.networks.training import Training, assemble
from rsssl.optim import layer_rates, parameter_groups
from rsssl.records import read_sealed
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
        forget_state(artifact.folder, recipe.pretrain.keep)
        copy_metrics(artifact.folder, run)
    return {
        "artifact": artifact.hash,
        "folder": str(artifact.folder),
        "weights": str(artifact.folder / BACKBONE),
        "dataset": planned.data_name,
        "reused": artifact.reused,
    } | read_sealed(artifact.folder / TRAINING, AGAIN)


def forget_state(folder: Path, asked: bool) -> None:
    """Removes the checkpoint of a finished training, several times as large as its weights, unless it was ever asked to
    be kept. Until the training is recorded as finished it stays: who is killed in between goes on from it."""
    checkpoints = Checkpoints(folder)
    with suppress(OSError, UserError):  # a store may be for reading only
        if asked and not is_kept(folder):
            keep(folder)
        if not is_kept(folder):
            checkpoints.keep_newest(0)
    if asked and not checkpoints.entries():
        log.warning(
            "%s was trained without pretrain.keep=true, so it cannot be gone on from: rsssl-run task=store "
            "remove=pretrain/%s lets this command train it again",
            *(folder, folder.name),
        )


def copy_metrics(source: Path, run: Run) -> None:
    """Puts a training's metrics.csv, TensorBoard events and pictures into the run folder too, where people look."""
    if (source / "metrics.csv").is_file():
        shutil.copy(source / "metrics.csv", run.record("metrics.csv"))
    for name in ("tensorboard", "pictures"):
        if (source / name).is_dir():
            shutil.copytree(source / name, run.record(name), dirs_exist_ok=True)


def train(planned: Plan, run: Run, folder: Path) -> None:
    """One pre-training in `folder`, resumed from its last checkpoint if it was interrupted."""
    recipe, keys = planned.recipe, planned.recipe.pretrain
    budget = budget_of(planned, folder, lambda steps: assemble(planned, run, steps))
    training = assemble(planned, run, budget.steps, budget.rows)
    method, batches, device, average = training.method, training.batches, training.device, training.average
    batches.needed = 1e9 * budget.gigabytes
    backbone = average.module if average else method.backbone  # what is looked at and kept
    rates = layer_rates(method.backbone, planned.lr, keys.layer_decay)
    parameters = parameter_groups(*method.trained_modules(), rates=rates)
    optimizer = instantiate(recipe.optimizer, lr=planned.lr, params=parameters, _convert_="all")
    epochs = round(batches.total_steps / batches.steps_per_epoch, 2)
    log_size(planned, training, epochs, budget, folder)
    tracker, checkpoints = instantiate(recipe.tracker), Checkpoints(folder)
    tracker.describe(f"{run.options['ssl']} on {planned.data_name}", run.deciding)
    ridge = instantiate(run.option("evaluate", "ridge"), _convert_="all")
    probe = OnlineProbe(backbone, planned.parts[0], planned.preprocess, ridge, device)
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
        average=average,
        exchange=recipe.distributed,
        advice=f"type the same command with task=replay to see which images and which layer it was, and with "
        f"pretrain.resume={folder} and a lower pretrain.lr= (it was {planned.lr:g}) to go on from the last checkpoint",
    )
    fit.run()
    if distributed.rank() > 0:
        return
    if not method.whole_images:
        with alone():  # the same images for any number of ranks
            recalibrate(backbone, whole_images(planned, device))
    inputs = {"inputs": json.dumps(planned.inputs)}
    write_backbone(backbone.cpu(), folder / BACKBONE, planned.preprocess, inputs)
    write_sealed(folder / TRAINING, record_of(planned, fit, epochs))
    if sentence := outlook(folder, planned, batches.total_steps):
        log.info(sentence)
    checkpoints.keep_newest()


def record_of(planned: Plan, fit: Fit, epochs: float) -> dict[str, Any]:
    """What is kept of a training, beside its weights."""
    return {
        "images": planned.n_images,
        "epochs": epochs,
        "steps": fit.batches.total_steps,
        "seconds": fit.seconds,
        "images_per_second": fit.images / max(fit.seconds, 1e-9),
        "device": str(fit.device),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }


def log_size(planned: Plan, training: Training, epochs: float, budget: Budget, folder: Path) -> None:
    """One line that says how long the training will be, and where it goes."""
    batches, ranks, threads = training.batches, distributed.world_size(), torch.get_num_threads()
    steps = f"{batches.total_steps:,} steps of {batches.batch_size * batches.accumulate} images x "
    steps += f"{training.method.n_views} views"
    where = f"{threads} core{'s' if threads > 1 else ''}" if training.device.type == "cpu" else str(training.device)
    where = f"{ranks} processes, {where} each" if ranks > 1 else where
    how_long = ""
    if budget.seconds:
        seconds = seconds_of(budget.seconds, training, done_before(planned), batches.total_steps)
        how_long = f", about {duration(60 * round(seconds / 60) if seconds > 90 else seconds)}"
        how_long += f" (pretrain.minutes={planned.minutes:g})" if planned.minutes else ""
    log.info(f"{planned.n_images:,} images, {epochs:g} epochs: {steps}{how_long} on {where}; weights in {folder}")


def whole_images(planned: Plan, device: torch.device) -> Iterator[Tensor]:
    """Some of the images trained on, as the evaluation will see them."""
    for data, rows in zip(planned.parts, planned.indices, strict=True):
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), RECALIBRATION)).astype(np.int64)]
        for part in np.array_split(some, -(-len(some) // 128)):
            yield prepare(stored(data.pack, part, device), planned.preprocess.of(data.pack.card))
