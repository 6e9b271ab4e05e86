"""What the checks and the measurements are made on: packed tiles, methods and trainings, all made here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rsssl
from rsssl.compose import Composer, composed
from rsssl.data.geotiff import write
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.pool import Pool, Source
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.device import on_device
from rsssl.engine.loop import Fit
from rsssl.methods.base import Method
from rsssl.models.ema import WeightAverage
from rsssl.models.preprocess import Preprocess
from rsssl.optim import AdamW, Constant, parameter_groups

SMALL = ["backbone.name=resnet10t", "+backbone.kwargs.channels=[8,16,32,64]", "start=random"]
TRANSFORMER = ["+backbone.kwargs.depth=2", "start=random"]


def tiles(folder: Path, n: int, bands: int, size: int) -> Pack:
    """A pack of n tiles of smooth noise: bytes of 3 bands, else uint16."""
    random, images = np.random.default_rng(bands), folder / f"tiles-{bands}-{size}-{n}"
    dtype, high = (np.uint8, 255) if bands == 3 else (np.uint16, 10_000)
    if not images.is_dir():
        (images / "a").mkdir(parents=True)
        for i in range(n):
            coarse = random.random((bands, 4, 4))
            fine = np.kron(coarse, np.ones((size // 4, size // 4))) * 0.8 + 0.2 * random.random((bands, size, size))
            write(images / "a" / f"{i}.tif", (fine * high).astype(dtype))
    dataset = rsssl.dataset("folder", str(images), bands=[f"b{i}" for i in range(bands)], valid_range=[0, high])
    return pack(dataset, folder / f"pack-{bands}-{size}-{n}", workers=1, progress=False)


@cache
def config(name: str, *line: str) -> Any:
    with Composer() as composer:
        return composed(composer, [f"ssl={name}", *line])


def method_of(name: str, bands: int, *line: str, bare: bool = False) -> tuple[Method, Any]:
    """A method with a network for tests, or with that of `line`; and its configuration."""
    from hydra.utils import instantiate

    own = [] if bare else TRANSFORMER if name in ("mae", "dino") else SMALL
    cfg = config(name, *own, *line)
    torch.manual_seed(0)
    return instantiate(cfg.ssl, backbone=instantiate(cfg.backbone, in_chans=bands, seed=0)), cfg


def preprocess_of(packed: Pack, size: int) -> Preprocess:
    return Preprocess(packed.card, size, packed.card.mean, packed.card.std)


def batches_of(
    packed: Pack, method: Method, cfg: Any, size: int, batch: int, steps: int, device: Any, **more: Any
) -> Any:
    """Batches of a method's own views."""
    from hydra.utils import instantiate

    views: Any = instantiate(cfg.augment, _convert_="all")
    pool = Pool([Source(packed, np.arange(len(packed.paths)))])
    sampling = Sampling(batch, 1, 0, "order", steps=steps, **more)
    return PoolBatches(
        pool, views, method.n_views, preprocess_of(packed, size), sampling, device, local=method.uses_local
    )


def fit_of(method: Method, batches: Any, device: torch.device, folder: Path | None = None, **more: Any) -> Fit:
    """A training, ready to run."""
    on_device(method, device).train()
    optimizer = AdamW(
        parameter_groups(*method.trained_modules()), lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8
    )
    checkpoints = None if folder is None else Checkpoints(folder)
    keys = {"average": WeightAverage(method.backbone, 0.3), "checkpoint_minutes": 60.0, "log_every": 10**9} | more
    return Fit(method, batches, optimizer, Constant(0.0), device, checkpoints=checkpoints, **keys)
