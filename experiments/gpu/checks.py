"""What has to be right on an accelerator. A check gives a sentence, or raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made import batches_of, fit_of, method_of, preprocess_of, tiles

from rsssl.augment import ops, with_torch
from rsssl.data.pool import Pool, Source
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.device import autocast, on_device
from rsssl.engine.meter import Meter
from rsssl.engine.steps import Steps
from rsssl.errors import UserError
from rsssl.groups import group_options

METHODS = [name for name in group_options("ssl") if name not in ("none", "seasonal", "distil")]


@dataclass(frozen=True)
class Place:
    """Where a check runs.

    Args:
        device: the accelerator, or the CPU.
        folder: for what is made.
        small: whether a few seconds on a CPU have to do.
    """

    device: torch.device
    folder: Path
    small: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"


@contextmanager
def passes(module: Any) -> Any:
    """Within it, views are made by that module of rsssl.augment; None: by the device's own."""
    before = ops._compiled
    if module is not None:
        ops._compiled = lambda name: module  # type: ignore[assignment]
    try:
        yield
    finally:
        ops._compiled = before


def views_are_those_of_the_cpu(place: Place) -> str:
    from hydra.utils import instantiate

    worst = 0.0
    for bands, size in ((3, 64), (13, 64)) if place.small else ((3, 64), (13, 64), (3, 256)):
        packed = tiles(place.folder, 64, bands, size)
        for policy in ("rs", "simclr", "s6", "multicrop"):
            views = instantiate(method_of("simclr", 3, f"augment={policy}")[1].augment, _convert_="all")
            x, ids = (
                torch.from_numpy(packed.images[:32].astype(np.int32 if bands == 13 else np.uint8)),
                torch.arange(32),
            )
            for pixels in (48, 224) if not place.small else (48,):
                keys = {"seed": 0, "epoch": 1, "views": 2}
                right = views.render(x, ids, preprocess_of(packed, pixels), **keys)
                for module in (None, with_torch):
                    with passes(module):
                        ours = views.render(x.to(place.device), ids, preprocess_of(packed, pixels), **keys)
                    worst = max(worst, float((ours.cpu() - right).abs().max()))
    assert worst < 2e-3, f"views differ by {worst:g} of a standard deviation"
    return f"by the device's own passes and by torch's: {worst:.1e} of a standard deviation apart at most"


def every_method_trains(place: Place) -> str:
    packed, steps = tiles(place.folder, 64, 3, 64), 2 if place.small else 30
    worst, names = 0.0, METHODS[:3] if place.small else METHODS
    for name in names:
        method, cfg = method_of(name, 3)
        batches = batches_of(packed, method, cfg, 32, 16, steps, place.device)
        with torch.no_grad():
            cpu = batches_of(packed, method, cfg, 32, 16, steps, torch.device("cpu")).again(0, np.arange(16), 0)
            right = float(method.train()(cpu)["loss"])
        method, _ = method_of(name, 3)
        on_device(method, place.device).train()
        with torch.no_grad(), autocast(place.device):
            loss = float(method(batches.again(0, np.arange(16), 0))["loss"])
        worst = max(worst, abs(loss - right) / max(abs(right), 0.2))
        assert worst < 0.05, f"{name}: a loss of {loss:g} here and of {right:g} on the CPU"
        fit_of(method_of(name, 3)[0], batches, place.device).run()  # raises where a step is not finite
    return f"{len(names)} methods, {steps} steps each; first losses within {100 * worst:.1f} % of a CPU's"


def a_step_waits_for_nothing(place: Place) -> str:
    packed, waited = tiles(place.folder, 64, 3, 64), 0
    for name in ("simclr", "vicreg", "byol", "dino", "moco_v2", "swav"):
        method, cfg = method_of(name, 3)
        batches = batches_of(packed, method, cfg, 32, 16, 12, place.device)
        steps = Steps(fit_of(method, batches, place.device), 0, Meter("sync", 0, 12, visible=False))
        for step in range(4):  # what is made once may wait
            steps.take(step, [0.0] * 4)
        if place.cuda:
            torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(4, 10):
                steps.take(step, [0.0] * 4)
                waited += 1
        finally:
            if place.cuda:
                torch.cuda.set_sync_debug_mode("default")
        steps.settle()
    return f"{waited} steps of six methods" + ("" if place.cuda else " (nothing to be waited for on a CPU)")


def compiled_is_eager(place: Place) -> str:
    if not place.cuda:
        return "left out: compiling on a CPU takes a minute"
    packed, worst = tiles(place.folder, 64, 3, 64), 0.0
    for mode in ("default", "reduce-overhead"):
        for accumulate in (1, 2) if mode == "default" else (1,):
            losses = []
            for compiled in (False, True):
                method, cfg = method_of("vicreg", 3)
                more = {"accumulate": accumulate, "size_at": lambda step, total: 32 if step < 4 else 48}
                batches = batches_of(packed, method, cfg, 48, 16, 8, place.device, **more)
                fit = fit_of(method, batches, place.device)
                if compiled:
                    method.backbone.compile(mode=mode, dynamic=False)
                steps, seen = Steps(fit, 0, Meter("compile", 0, 8, visible=False)), []
                for step in range(8):
                    settled = steps.take(step, [0.0] * 4)[2]
                    seen += [settled.loss] if settled else []
                losses.append(np.array([*seen, steps.settle().loss]))  # type: ignore[union-attr]
            worst = max(worst, float(np.abs(losses[0] - losses[1]).max() / np.abs(losses[0]).max()))
            assert worst < 0.03, f"compile={mode} with pretrain.accumulate={accumulate}: {losses}"
    return f"two sizes, one and two batches a step: losses within {100 * worst:.1f} %"


def a_pool_is_held_once(place: Place) -> str:
    if not place.cuda:
        return "left out: a CPU holds no pool"
    packed = tiles(place.folder, 256, 3, 256)
    pool = Pool([Source(packed, np.arange(len(packed.paths)))])
    pool_bytes = packed.images.nbytes
    filler = torch.empty(torch.cuda.mem_get_info()[0] - int(pool_bytes / 0.45), dtype=torch.uint8, device=place.device)
    assert pool.fits(place.device), "it is said not to fit"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pool.hold(place.device)
    peak = torch.cuda.max_memory_allocated() - before
    del filler
    assert peak < 1.4 * pool_bytes + (64 << 20), f"{peak / pool_bytes:.2f} times the pool's bytes"
    held = pool.held[0][:8].cpu().numpy() if pool.held else None
    assert held is not None and (held == packed.images[:8]).all()
    return f"a pool of 0.45 of the free memory took {peak / pool_bytes:.2f} times its bytes at the peak"


def a_bad_step_leaves_no_trace(place: Place) -> str:
    packed = tiles(place.folder, 64, 3, 64)
    method, cfg = method_of("moco_v2", 3)
    batches = batches_of(packed, method, cfg, 32, 16, 12, place.device)
    folder = place.folder / f"bad-{time.time_ns()}"
    folder.mkdir()
    fit = fit_of(method, batches, place.device, folder)
    forward, states, after = method.forward, list[dict[str, Any]](), method.after_step
    bad = int(batches.ids(5 % batches.batches_per_epoch)[1].sum())

    def broken(batch: Any) -> Any:
        out = forward(batch)
        if int(batch.ids.sum()) == bad and len(states) >= 5 % batches.batches_per_epoch:
            out["loss"] = out["loss"] * float("nan")
        return out

    def noted(step: int, total: int) -> None:
        after(step, total)
        states.append({k: v.detach().cpu().clone() for k, v in method.state_dict().items()})

    method.forward, method.after_step = broken, noted  # type: ignore[method-assign]
    try:
        fit.run()
    except UserError as error:
        newest = Checkpoints(folder).load()
        assert newest is not None
        kept, right = newest["model"], states[newest["step"] - 1]
        assert all(torch.equal(kept[k], right[k]) for k in right), "weights, queues or statistics have changed"
        return f"{str(error).split(':')[0]}; the state from before it was kept"
    raise AssertionError("it trained on")


def killed_and_resumed(place: Place) -> str:
    steps, runs = 6 if place.small else 60, {}
    for cut in (False, True):
        folder = place.folder / f"killed-{cut}-{time.time_ns()}"
        folder.mkdir()
        command = [
            sys.executable,
            str(Path(__file__).with_name("train.py")),
            str(folder),
            str(steps),
            place.device.type,
        ]
        if cut:
            child = subprocess.Popen(command)
            while len(list(folder.glob("checkpoint-*.json"))) < 1 and child.poll() is None:
                time.sleep(0.02)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        subprocess.run(command, check=True)
        runs[cut] = torch.load(folder / "final.pt", weights_only=True)
    differ = max(float((runs[True][k].float() - v.float()).abs().max()) for k, v in runs[False].items())
    assert differ == 0 if not place.cuda else differ < 1e-2, f"weights differ by {differ:g}"
    return f"weights differ by {differ:.1g} at most"


CHECKS: list[Callable[[Place], str]] = [
    views_are_those_of_the_cpu,
    every_method_trains,
    a_step_waits_for_nothing,
    compiled_is_eager,
    a_pool_is_held_once,
    a_bad_step_leaves_no_trace,
    killed_and_resumed,
]
