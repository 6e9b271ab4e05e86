"""Taking a step again that was not finite: which images, which layer and which gradients it was.

The training kept the images' numbers, the keys of their random numbers and the weights before the step; views follow
from these. One process replays the step of any number of ranks; what the network itself draws (dropout) was each rank's
own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.data.dataset import Dataset
from rsssl.engine import checkpoint
from rsssl.engine.device import autocast, seed_dropout
from rsssl.engine.ranks import world_size
from rsssl.engine.replay import Failure, not_finite
from rsssl.engine.run import Run
from rsssl.errors import UserError
from rsssl.networks.budget import read_budget
from rsssl.networks.plan import Plan, plan
from rsssl.networks.recipe import Recipe
from rsssl.networks.training import Training, assemble

SHOWN = 5


def replay_failure(recipe: Recipe, dataset: Dataset, run: Run) -> dict[str, Any]:
    """What the step does that the training of this recipe kept. See `replay`.

    Raises:
        UserError: when it kept none, or under torchrun.
    """
    if world_size() > 1:
        raise UserError("task=replay takes a step again on one process: type it without torchrun")
    planned = plan(recipe, dataset, run)
    folder = run.store.folder("pretrain", planned.inputs)
    failure = Failure.read(folder)
    if failure is None:
        raise UserError(
            f"{folder} keeps no step that was not finite: type the command that failed, all of it, with task=replay "
            f"added"
        )
    budget = read_budget(folder)
    training = assemble(planned, run, failure.total, budget.rows if budget else None)
    state = checkpoint.read(folder / f"checkpoint-{failure.step:09d}.pt")
    training.method.load_state_dict(state["model"])
    return replay(training, planned, failure)


def replay(training: Training, planned: Plan, failure: Failure) -> dict[str, Any]:
    """What the step does: its loss, and where the first number that is not finite comes from."""
    method = training.method.train()
    first: list[str] = []
    hooks = [m.register_forward_hook(watcher(name, first)) for name, m in method.named_modules() if name]
    losses, images = [], []
    for part, (epoch, ids) in enumerate(zip(failure.epochs, failure.ids, strict=True)):
        batch = training.batches.again(epoch, np.asarray(ids), failure.step)
        batch = replace(batch, key=failure.keys[part])
        images += suspicious(batch, planned)
        seed_dropout(failure.seed, failure.step * len(failure.ids) + part)  # exact where one process had trained
        with autocast(training.device):
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
        "paths": [planned.path_of(i) for ids in failure.ids for i in ids],
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


def suspicious(batch: Batch, planned: Plan) -> list[dict[str, Any]]:
    """The images whose views are not finite, or farthest from the pool's mean, in its standard deviations."""
    flat = batch.views.transpose(0, 1).flatten(1)  # (B, V * C * S * S)
    largest = flat.abs().nan_to_num(torch.inf, torch.inf).amax(1)
    order = largest.argsort(descending=True)[:SHOWN]
    return [{"path": planned.path_of(int(batch.ids[i])), "largest_value": float(largest[i])} for i in order]


def print_replay(results: dict[str, Any], file: Path) -> None:
    same = (
        "and is so again" if results["reproduced"] else "and is finite here: another device, or other code, may be why"
    )
    print(
        f"\nStep {results['step']} of {results['total']}, {results['images']} images on {results['processes']} "
        f"process(es): the loss was {results['loss_then']}, {same} ({results['loss']:g})"
    )
    print(f"  first layer whose output is not finite: {results['first_layer'] or 'none'}")
    print(f"  gradients that are not finite: {', '.join(results['gradients'][:SHOWN]) or 'none'}")
    name, value = results["largest_weight"]
    print(f"  largest weight: {value:g} in {name}")
    for image in results["suspicious_images"]:
        print(f"  largest value of its views {image['largest_value']:g}: {image['path']}")
    print(f"  {file}")
