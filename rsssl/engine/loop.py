"""The training loop, for pre-training and fine-tuning alike. Reads top to bottom; there are no hooks."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rsssl.engine import distributed
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.tracking import Tracker
from rsssl.errors import UserError
from rsssl.rng import fold

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
MONITORED = 512  # rows of the embedding that the collapse monitor looks at


@dataclass
class Batch:
    """One step's input: views (V, B, C, S, S) float32, standardised, of the same B images.

    local: the small views (L, B, C, s, s) of a multi-crop augmentation. key: of the random numbers that a method draws.
    places: (B,) the place that each image shows, where odd views show another image of it.
    """

    ids: Tensor
    epoch: int
    views: Tensor
    labels: Tensor | None = None
    local: Tensor | None = None
    key: int = 0
    places: Tensor | None = None


class Batches(Protocol):
    """Where batches come from: all its state is one integer, the number of batches already taken."""

    total_steps: int
    steps_per_epoch: int

    def start(self, cursor: int) -> Iterator[Batch]: ...


class Trainable(Protocol):
    """What the loop trains: `forward(batch)` gives {"loss": scalar, "embedding": (n, D), plus scalars to log}."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...
    def after_step(self, step: int, total_steps: int) -> None: ...


def pick_device(name: str) -> torch.device:
    """ "auto" is the first accelerator, else the CPU."""
    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} is not available ({str(error).splitlines()[0]}): type device=cpu") from None
    return device


def on_device(model: Model, device: torch.device) -> Model:
    """The model on the device, its convolutions channels-last: 1.3 times faster on CPUs too (ResNet-18 at 64 pixels).

    On accelerators float32 products are rounded to TF32, and the fastest convolutions are found by trying.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    return model.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on accelerators that have it; nothing on CPUs, where it is slower."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@dataclass
class Fit:
    """Everything one training needs; `run()` trains to the end, from the last checkpoint when there is one.

    Args:
        model: an `nn.Module` that is also a `Trainable`.
        optimizer: its groups' "lr" at this moment are the peak learning rates.
        schedule: (step, total_steps) -> factor in [0, 1] on the peak rates.
        meanwhile: (times, call) pairs: call(step) that many times, evenly spread and after the last step, by the one rank
            that writes; the numbers it returns are logged.
        monitor: measures the embeddings every `log_every` steps and warns of a collapse.
        after_epoch: called with the number of passes done.
    """

    model: nn.Module
    batches: Batches
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int, int], float]
    device: torch.device
    tracker: Tracker | None = None
    checkpoints: Checkpoints | None = None
    checkpoint_minutes: float = 5.0
    log_every: int = 10
    meanwhile: Sequence[tuple[int, Callable[[int], dict[str, float]]]] = ()
    monitor: CollapseMonitor | None = None
    title: str = "training"
    seed: int = 0
    after_epoch: Callable[[int], None] | None = None
    seconds: float = field(default=0.0, init=False)
    images: int = field(default=0, init=False)

    def run(self) -> None:
        total, per_epoch = self.batches.total_steps, self.batches.steps_per_epoch
        step = self._resume()
        first = distributed.rank() == 0  # the one rank that writes
        if self.tracker and self.checkpoints and first:
            self.tracker.open(self.checkpoints.folder, step)
        calls = [(call, {round(total * (i + 1) / times) for i in range(times)}) for times, call in self.meanwhile if first]
        saved_at = started = time.monotonic()
        base_seconds, waited, window_images, window_start = self.seconds, 0.0, 0, started
        bar = tqdm(total=total, initial=step, desc=self.title, unit="step", dynamic_ncols=True,
                   mininterval=0.5 if sys.stderr.isatty() else 30, leave=False, disable=not first)  # fmt: skip
        self.model.train()
        batches = self.batches.start(step)
        while step < total:
            before = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - before

            factor = self.schedule(step, total)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            # for dropout: no state to resume
            torch.manual_seed(fold("step", self.seed, step, distributed.rank()) % 2**63)
            with autocast(self.device):
                out = self.model(batch)
            self.optimizer.zero_grad(set_to_none=True)
            out["loss"].backward()
            distributed.average_gradients(self.model)
            self.optimizer.step()
            self.model.after_step(step, total)  # type: ignore[operator]

            step += 1
            self.images += len(batch.ids) * distributed.world_size()
            window_images += len(batch.ids) * distributed.world_size()
            bar.update()
            now = time.monotonic()
            self.seconds = base_seconds + now - started
            if step % self.log_every == 0 or step == total:
                values = self._fetch(out, step)
                elapsed = now - window_start
                values |= {
                    "lr_factor": factor,
                    "images_per_second": window_images / elapsed,
                    "data_share": waited / elapsed,
                }
                bar.set_postfix_str(
                    f"loss {values['loss']:.3f} {values['images_per_second']:.0f} images/s data {values['data_share']:.0%}",
                    refresh=False,
                )
                self._log(step, batch.epoch, values)
                waited, window_images, window_start = 0.0, 0, now
            for call in (call for call, steps in calls if step in steps):
                self._log(step, batch.epoch, call(step))
                self.model.train()
                window_start, waited, window_images = time.monotonic(), 0.0, 0
            if self.after_epoch and step % per_epoch == 0:
                self.after_epoch(step // per_epoch)
                self.model.train()
            if self.checkpoints and first and (now - saved_at > 60 * self.checkpoint_minutes or step == total):
                self._save(step)
                saved_at = time.monotonic()
        bar.close()
        if self.tracker and first:
            self.tracker.close()

    def _fetch(self, out: dict[str, Tensor], step: int) -> dict[str, float]:
        """The step's numbers, from the device in one go; stops on a loss that is not finite."""
        names = [k for k, v in out.items() if v.ndim == 0]
        values = dict(zip(names, torch.stack([out[k].detach().float() for k in names]).tolist(), strict=True))
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise UserError(
                f"the loss is {values['loss']} at step {step}: type a lower learning rate, for example pretrain.lr=0.0003"
            )
        if self.monitor and "embedding" in out:
            std, rank, _ = self.monitor.check(out["embedding"].detach()[:MONITORED], step)
            values |= {"embedding_std": std, "effective_rank": rank}
        return values

    def _log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        if self.tracker and distributed.rank() == 0:
            self.tracker.log(step, epoch, values)

    def _save(self, step: int) -> None:
        assert self.checkpoints
        state = {"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "seconds": self.seconds, "images": self.images}  # fmt: skip
        self.checkpoints.save(step, state)

    def _resume(self) -> int:
        """Loads the last checkpoint, if any, and returns the number of steps done."""
        for group in self.optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
        state = self.checkpoints.load(self.device) if self.checkpoints else None
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.images = state["seconds"], state["images"]
        log.info("%s: resumed at step %d of %d", self.title, state["step"], self.batches.total_steps)
        return state["step"]
