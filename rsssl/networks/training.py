"""What a pre-training is made of: the backbone as it starts, the method around it, its batches and their sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from rsssl import rng
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.places import Partners
from rsssl.data.pool import Pool
from rsssl.engine import distributed
from rsssl.engine.batch_norm import over_all_ranks
from rsssl.engine.device import on_device
from rsssl.engine.run import Run
from rsssl.engine.step_memory import free_for
from rsssl.errors import UserError
from rsssl.methods.base import Method
from rsssl.methods.distillation import Distillation
from rsssl.models.batch_norm import keep_statistics
from rsssl.models.card import SensorCard
from rsssl.models.ema import MovingAverage, WeightAverage
from rsssl.models.fused import fuse
from rsssl.models.maps import check_size, patch_side
from rsssl.models.parts import in_parts
from rsssl.networks.plan import PLACES_HINT, Plan, place_of_each
from rsssl.networks.recipe import Recipe
from rsssl.networks.starts import Start
from rsssl.networks.teacher import Teacher
from rsssl.optim import freeze

log = logging.getLogger(__name__)
FEATURES = 16  # numbers a pixel that the first layers of a network make, about


@dataclass(frozen=True)
class Training:
    """What a pre-training is made of, on this rank: built the same way to train and to replay a step."""

    method: Method
    batches: PoolBatches
    device: torch.device
    average: WeightAverage | None


def assemble(planned: Plan, run: Run, steps: int | None, rows: int | None = None) -> Training:
    """The method with its backbone, and its batches.

    Args:
        planned: the training.
        run: the job.
        steps: in place of whole epochs.
        rows: views that go through the backbone together; None: all.
    """
    recipe, keys, device = planned.recipe, planned.recipe.pretrain, run.device
    card = planned.preprocess.card
    backbone = distributed.first_then_others(lambda: started(recipe, planned.start, card, run))
    freeze(backbone, keys.layer_decay, keys.freeze)
    check_size(backbone, planned.preprocess.size, "pretrain.image_size")
    stages = [(float(until), float(scale)) for until, scale in keys.progressive]
    refuse_too_large(planned.preprocess.size, card.n_bands, "pretrain.image_size")
    size_at = stage_size(planned.preprocess.size, stages, max(2, patch_side(backbone)))
    try_size(backbone, card.n_bands, size_at(0, 1))
    teacher = Teacher(planned.teacher, planned.parts, planned.indices, run) if planned.teacher else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("method", keys.seed) % 2**63)
        method = make_method(recipe.ssl, backbone, **({"teacher": teacher} if teacher else {}))
    on_device(over_all_ranks(method), device).train()
    if device.type == "cpu" and not recipe.compile:
        fuse(backbone, card.n_bands, size_at(0, 1))
    average = WeightAverage(method.backbone, keys.average) if keys.average else None
    if keys.distill:
        on_device(Distillation(method, keys.distill), device)
    if rows is not None:
        in_parts(method.backbone, rows)
    if recipe.compile:
        distributed.keep_from_compiler()
        # In place: the names of the weights stay. Each size of views has a graph of its own, faster than one for all.
        method.backbone.compile(mode=recipe.compile, dynamic=False)
        for copy in (m for m in method.modules() if isinstance(m, MovingAverage)):
            copy.module.compile(dynamic=False)  # without CUDA graphs, which would take turns with the backbone's
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
        epochs=keys.epochs or 1,
        seed=keys.seed,
        key="+".join(d.split.hash for d in planned.parts),
        steps=steps,
        accumulate=keys.accumulate,
        size_at=size_at,
    )
    views = instantiate(recipe.augment, _convert_="all")
    batches = PoolBatches(pool, views, method.n_views, planned.preprocess, sampling, device, local=method.uses_local)
    if keys.batch_size > len(pool):
        log.warning(
            "pretrain.batch_size=%d is more than the pool's %d images; a batch is the pool", keys.batch_size, len(pool)
        )
    return Training(method, batches, device, average)


def started(recipe: Recipe, start: Start, card: SensorCard, run: Run) -> nn.Module:
    """The backbone before any training, for the bands of a card."""
    backbone: nn.Module = instantiate(recipe.backbone, in_chans=card.n_bands, seed=recipe.pretrain.seed)
    start.load(backbone, card, run.store.root / "starts")
    if start.identity(recipe.backbone["name"]):
        keep_statistics(backbone)
    return backbone


def make_method(node: dict[str, Any], backbone: nn.Module, **more: Teacher) -> Method:
    """The method of a configuration; UserError when it is none, or its constructor left out that of `Method`."""
    name = str(node["_target_"]).rpartition(".")[2]
    try:
        method = instantiate(node, backbone=backbone, **more)
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


def refuse_too_large(size: int, bands: int, key: str) -> None:
    """Raises UserError where not even one image of `size` pixels and its first features fit into memory."""
    need, free = 4 * size**2 * (bands + FEATURES), free_for(torch.device("cpu"))
    if need > free:
        raise UserError(
            f"{key}={size}: one image takes {need / 1e9:,.1f} GB, and {free / 1e9:.1f} GB are free: type for example "
            f"{key}=224"
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
