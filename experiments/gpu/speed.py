"""How fast a training goes on an accelerator, and how much of a step is not the network."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from checks import Place
from made import batches_of, fit_of, method_of, tiles

from rsssl.engine.device import autocast
from rsssl.engine.meter import Meter
from rsssl.engine.steps import Steps


class Case(NamedTuple):
    """A training to measure: network, pixels of a tile and of a view, bands, images a step."""

    network: str
    tile: int
    size: int
    bands: int
    batch: int
    policy: str


CASES = [
    Case("vit_small_patch16_224", 256, 224, 3, 256, "rs"),
    Case("vit_small_patch16_224", 256, 224, 3, 256, "simclr"),
    Case("resnet50", 64, 64, 3, 512, "rs"),
    Case("resnet50", 64, 64, 13, 512, "rs"),
]
TINY = [Case("resnet10t", 64, 32, 3, 8, "rs")]
PUBLISHED = "stable-pretraining publishes 871 images/s: ViT-S/16, two views of 224 pixels, one H200"


class Speed(NamedTuple):
    """Images per second of the loop and of the network alone, milliseconds of a batch's views, GB at the peak."""

    case: Case
    loop: float
    alone: float
    views: float
    memory: float

    @property
    def rest(self) -> float:
        """The share of a step that is not the network."""
        return max(0.0, 1 - self.loop / self.alone)


def measured(place: Place, case: Case, steps: int) -> Speed:
    """Over so many steps, after as many to warm up."""
    line = [f"backbone.name={case.network}", "start=random", f"augment={case.policy}", "ssl.views=2"]
    method, cfg = method_of("simclr", case.bands, *line, bare=True)
    packed = tiles(place.folder, max(case.batch, 64) if place.small else 2048, case.bands, case.tile)
    batches = batches_of(packed, method, cfg, case.size, case.batch, 10**6, place.device)
    if place.cuda:
        torch.cuda.reset_peak_memory_stats()
    fit = fit_of(method, batches, place.device)
    run = Steps(fit, 0, Meter("speed", 0, 10**6, visible=False))
    number = iter(range(10**6))
    loop = rate(place, steps, case.batch, lambda: run.take(next(number), [0.0] * 4))
    run.settle()
    batch = batches.again(0, batches.ids(0)[1], 0)

    def network() -> None:
        fit.optimizer.zero_grad(set_to_none=True)
        with autocast(place.device):
            loss = method(batch)["loss"]
        loss.backward()
        fit.optimizer.step()

    alone = rate(place, steps, case.batch, network)
    x, ids = packed.images[: case.batch], torch.arange(case.batch)
    there = torch.from_numpy(x if case.bands == 3 else x.astype("int32")).to(place.device)
    made = rate(place, steps, 1, lambda: batches.views.render(there, ids, batches.preprocess, seed=0, epoch=0, views=2))
    memory = torch.cuda.max_memory_allocated() / 1e9 if place.cuda else 0.0
    return Speed(case, loop, alone, 1000 / made, memory)


def rate(place: Place, steps: int, images: int, work: Any) -> float:
    """Images per second of the better of two measurements, after a warm-up."""
    best = 0.0
    for turn in range(3):
        begin = time.perf_counter()
        for _ in range(steps):
            work()
        if place.cuda:
            torch.cuda.synchronize()
        best = max(best, images * steps / (time.perf_counter() - begin)) if turn else best
    return best
