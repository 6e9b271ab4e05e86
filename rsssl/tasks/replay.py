"""`task=replay`: takes a step again that was not finite, and says which images, which layer and which gradients it was.

The training kept the images' numbers, the keys of their random numbers and the weights before the step; views follow from
these. One process replays the step of any number of ranks; what the network itself draws (dropout) was each rank's own.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import checkpoint
from rsssl.engine.files import write_json
from rsssl.engine.loop import autocast, seed_dropout
from rsssl.engine.ranks import world_size
from rsssl.engine.replay import Failure, not_finite
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.tasks.common import run_folder
from rsssl.tasks.pretrain import Pretraining, Training, assemble, plan

log = logging.getLogger(__name__)
SHOWN = 5


def run(cfg: DictConfig) -> None:
    """Replays the step that the training of this config kept; prints what it was and writes replay.json."""
    if world_size() > 1:
        raise UserError("task=replay takes a step again on one process: type it without torchrun")
    store = Store(cfg.paths.store)
    todo = plan(cfg, store)
    folder = store.folder("pretrain", todo.inputs)
    failure = Failure.read(folder)
    if failure is None:
        raise UserError(
            f"{folder} keeps no step that was not finite: type the command that failed, all of it, with task=replay added"
        )
    made = assemble(cfg, todo)
    state = checkpoint.read(folder / f"checkpoint-{failure.step:09d}.pt", made.device)
    made.method.load_state_dict(state["model"])
    found = replay(made, todo, failure)
    write_json(run_folder() / "replay.json", found)
    print_found(found, run_folder() / "replay.json")


def replay(made: Training, todo: Pretraining, failure: Failure) -> dict[str, Any]:
    """What the step does: its loss, and where the first number that is not finite comes from."""
    method = made.method.train()
    first: list[str] = []
    hooks = [m.register_forward_hook(watcher(name, first)) for name, m in method.named_modules() if name]
    losses, images = [], []
    for part, (epoch, ids) in enumerate(zip(failure.epochs, failure.ids, strict=True)):
        batch = made.batches.again(epoch, np.asarray(ids), failure.step)
        batch = replace(batch, key=failure.keys[part])
        images += suspicious(batch, todo)
        seed_dropout(failure.seed, failure.step * len(failure.ids) + part)  # exact where one process had trained
        with autocast(made.device):
            loss = method(batch)["loss"] / len(failure.ids)
        loss.backward()
        losses.append(float(loss))
    for hook in hooks:
        hook.remove()
    gradients = not_finite(method)
    return {
        "step": failure.step,
        "total": failure.total,
        "images": sum(len(i) for i in failure.ids),
        "processes": failure.ranks,
        "loss_then": failure.loss,
        "loss": sum(losses),
        "reproduced": not np.isfinite(sum(losses)) or bool(gradients),
        "first_layer": first[0] if first else None,
        "gradients": gradients,
        "suspicious_images": images,
        "paths": [path_of(todo, i) for ids in failure.ids for i in ids],
        "largest_weight": max(
            ((n, float(p.abs().max())) for n, p in method.named_parameters()), key=lambda pair: pair[1]
        ),
    }


def watcher(name: str, first: list[str]) -> Any:
    """A forward hook that notes the module when it is the first whose output is not finite."""

    def look(module: nn.Module, arguments: Any, output: Any) -> None:
        if not first and isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
            first.append(f"{name} ({type(module).__name__})")

    return look


def suspicious(batch: Batch, todo: Pretraining) -> list[dict[str, Any]]:
    """The images whose views are not finite, or farthest from the pool's mean, in its standard deviations."""
    flat = batch.views.transpose(0, 1).flatten(1)  # (B, V * C * S * S)
    largest = flat.abs().nan_to_num(torch.inf, torch.inf).amax(1)
    order = largest.argsort(descending=True)[:SHOWN]
    return [{"path": path_of(todo, int(batch.ids[i])), "largest_value": float(largest[i])} for i in order]


def path_of(todo: Pretraining, number: int) -> str:
    """The file of an image of the pool."""
    for data, rows in zip(todo.parts, todo.indices, strict=True):
        if number < len(rows):
            return str(Path(data.dataset.root or "") / data.pack.paths[rows[number]])
        number -= len(rows)
    raise UserError("the failed step names an image that the pool does not have: type the command that failed")


def print_found(found: dict[str, Any], file: Path) -> None:
    same = "and is so again" if found["reproduced"] else "and is finite here: another device, or other code, may be why"
    print(
        f"\nStep {found['step']} of {found['total']}, {found['images']} images on {found['processes']} process(es): "
        f"the loss was {found['loss_then']}, {same} ({found['loss']:g})"
    )
    print(f"  first layer whose output is not finite: {found['first_layer'] or 'none'}")
    print(f"  gradients that are not finite: {', '.join(found['gradients'][:SHOWN]) or 'none'}")
    name, value = found["largest_weight"]
    print(f"  largest weight: {value:g} in {name}")
    for image in found["suspicious_images"]:
        print(f"  largest value of its views {image['largest_value']:g}: {image['path']}")
    print(f"  {file}")
