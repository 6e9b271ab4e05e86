"""The training loop, for pre-training and fine-tuning alike. Reads top to bottom; there are no hooks."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rsssl.batch import Batch
from rsssl.engine import checkpoint, distributed, replay
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.stop import StopRequests
from rsssl.engine.tracking import Tracker
from rsssl.engine.watch import Watch
from rsssl.errors import UserError
from rsssl.rng import fold

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
MONITORED = 512  # rows of the embedding that the collapse monitor looks at
SCORE = "probe_oa"  # what tells how good a checkpoint is, where it is measured


class Batches(Protocol):
    """Where batches come from, `accumulate` for each step: all its state is one integer, the number already taken."""

    total_steps: int
    steps_per_epoch: int
    accumulate: int

    def start(self, cursor: int) -> Iterator[Batch]: ...


class Trainable(Protocol):
    """What the loop trains: `forward(batch)` gives {"loss": scalar, "embedding": (n, D), plus scalars to log}."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...
    def after_step(self, step: int, total_steps: int) -> None: ...


def pick_device(name: str) -> torch.device:
    """ "auto" is an accelerator, this rank's own, else the CPU; so is "cuda", which there must be."""
    if (name == "auto" and torch.cuda.is_available()) or name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    name = "cpu" if name == "auto" else name
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


def seed_dropout(seed: int, number: int) -> None:
    """Seeds what the network itself draws at random for batch `number`, on this rank: there is no state to resume."""
    torch.manual_seed(fold("step", seed, number, distributed.rank()) % 2**63)


@dataclass
class Fit:
    """Everything one training needs; `run()` trains to the end, from the last checkpoint when there is one.

    Args:
        model: an `nn.Module` that is also a `Trainable`.
        optimizer: its groups' "lr" at this moment are the peak learning rates.
        schedule: (step, total_steps) -> factor in [0, 1] on the peak rates.
        meanwhile: (times, call) pairs: call(step) that many times, evenly spread and after the last step, by the one rank
            that writes; the numbers it returns are logged, and the checkpoint of the highest SCORE is kept.
        monitor: measures the embeddings every `log_every` steps and warns of a collapse.
        after_epoch: called with the number of passes done.
        timeout: seconds without progress after which a rank ends, when there are several.
        start_from: another training's checkpoint to begin with, where this one has none of its own.
        advice: what to type after a step that was not finite.
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
    timeout: float = 600.0
    start_from: Path | None = None
    advice: str = "type a lower learning rate"
    seconds: float = field(default=0.0, init=False)
    images: int = field(default=0, init=False)

    def run(self) -> None:
        """Trains to the end.

        Raises:
            Stopped: when a signal asked for it; after the step, the same on all ranks, and a checkpoint.
            UserError: on a loss or a gradient that is not finite, before it changes the weights.
            LostRank: when another rank is gone.
        """
        with StopRequests() as requests:
            try:
                with Watch(self.timeout, requests) as watch:
                    self._train(requests, watch)
            finally:  # whatever happened: what is being written is written to its end
                if self.checkpoints:
                    self.checkpoints.wait()

    def _train(self, requests: StopRequests, watch: Watch) -> None:
        total, per_epoch, ranks = self.batches.total_steps, self.batches.steps_per_epoch, distributed.world_size()
        step = self._resume()
        first = distributed.rank() == 0  # the one rank that writes
        if self.tracker and self.checkpoints and first:
            self.tracker.open(self.checkpoints.folder, step)
        calls = [
            (call, {round(total * (i + 1) / times) for i in range(times)}) for times, call in self.meanwhile if first
        ]
        best = self.checkpoints.best() if self.checkpoints else None
        best_score = best.score if best and best.score is not None else -math.inf
        before_step = replay.BuffersBefore(self.model)
        saved_at = started = time.monotonic()
        base_seconds, waited, window_images, window_start = self.seconds, 0.0, 0, started
        bar = tqdm(
            total=total,
            initial=step,
            desc=self.title,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            leave=False,
            disable=not first,
        )
        self.model.train()
        batches = self.batches.start(step * self.batches.accumulate)
        while step < total:
            before_step.note()
            factor = self.schedule(step, total)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            self.optimizer.zero_grad(set_to_none=True)
            taken: list[Batch] = []
            loss = torch.zeros((), device=self.device)
            for part in range(self.batches.accumulate):
                before = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - before
                seed_dropout(self.seed, step * self.batches.accumulate + part)
                with autocast(self.device):
                    out = self.model(batch)
                part_loss = out["loss"] / self.batches.accumulate
                part_loss.backward()
                loss += part_loss.detach()
                taken.append(batch)

            # One exchange, and one transfer from the device, for all that a step has to know.
            notes = torch.cat([loss.view(1), loss.new_tensor(requests.flags())])
            mean_loss, norm, *flags = distributed.average_gradients(self.model, notes).tolist()
            mean_loss /= ranks
            if not (math.isfinite(mean_loss) and math.isfinite(norm)):
                self._fail(step, taken, mean_loss, before_step)
            self.optimizer.step()
            self.model.after_step(step, total)  # type: ignore[operator]

            step, watch.started = step + 1, True
            n_images = ranks * sum(len(b.ids) for b in taken)
            self.images += n_images
            window_images += n_images
            bar.update()
            now = time.monotonic()
            self.seconds = base_seconds + now - started
            if step % self.log_every == 0 or step == total:
                values = self._fetch(out, step) | {"loss": mean_loss}
                elapsed = now - window_start
                values |= {
                    "gradient_norm": norm,
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
            score = None
            for call in (call for call, steps in calls if step in steps):
                values = call(step)
                score = values.get(SCORE, score)
                self._log(step, batch.epoch, values)
                self.model.train()
                window_start, waited, window_images = time.monotonic(), 0.0, 0
            if self.after_epoch and step % per_epoch == 0:
                self.after_epoch(step // per_epoch)
                self.model.train()
            stopped = requests.stopped(flags, step, total, self.checkpoints is not None)
            better = score is not None and score > best_score
            due = now - saved_at > 60 * self.checkpoint_minutes
            if self.checkpoints and first and (due or better or stopped or step == total):
                self.checkpoints.save(step, self._state(step), score)
                saved_at, best_score = now, score if better and score is not None else best_score
            if stopped:
                self._close(bar)
                self._written()
                raise stopped
        self._close(bar)

    def _close(self, bar: Any) -> None:
        bar.close()
        if self.tracker and distributed.rank() == 0:
            self.tracker.close()

    def _written(self) -> None:
        """Until the one rank that writes has written all: no rank ends before, or torchrun would end that one too."""
        if self.checkpoints:
            self.checkpoints.wait()
        distributed.broadcast(None)

    def _fetch(self, out: dict[str, Tensor], step: int) -> dict[str, float]:
        """The step's numbers, as means over the ranks, from the device in one go."""
        names = [k for k, v in out.items() if v.ndim == 0]
        sums = distributed.add_up(torch.stack([out[k].detach().float() for k in names])) / distributed.world_size()
        values = dict(zip(names, sums.tolist(), strict=True))
        if self.monitor and "embedding" in out and distributed.rank() == 0:
            std, rank, _ = self.monitor.check(out["embedding"].detach()[:MONITORED], step)
            values |= {"embedding_std": std, "effective_rank": rank}
        return values

    def _log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        if self.tracker and distributed.rank() == 0:
            self.tracker.log(step, epoch, values)

    def _fail(self, step: int, taken: list[Batch], loss: float, before: replay.BuffersBefore) -> NoReturn:
        """Keeps the step for a replay, and ends the training on all ranks."""
        ids, names = replay.all_ids([b.ids for b in taken]), distributed.collect(replay.not_finite(self.model))
        found = replay.Failure(
            step,
            self.batches.total_steps,
            self.seed,
            [b.epoch for b in taken],
            ids,
            [b.key for b in taken],
            loss,
            max(names, key=len),
            distributed.world_size(),
        )
        if self.checkpoints and distributed.rank() == 0:
            self.checkpoints.save(step, self._state(step) | {"model": before.state(self.model)})
            found.write(self.checkpoints.folder)
        self._written()
        what = f"the loss is {loss}"
        if math.isfinite(loss):
            what = f"the gradient of {(found.gradients or ['the model'])[0]} is not finite"
        raise UserError(f"{what} at step {step} of {self.batches.total_steps}: {self.advice}")

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "images": self.images,
            "ranks": distributed.world_size(),
            "collapsed_checks": self.monitor.below if self.monitor else 0,
        }

    def _resume(self) -> int:
        """Loads the last checkpoint, if any, and returns the number of steps done."""
        groups = self.optimizer.param_groups
        for group in groups:
            group.setdefault("peak_lr", group["lr"])
        file = self.start_from
        if self.checkpoints:
            own = distributed.broadcast(self.checkpoints.newest() if distributed.rank() == 0 else None)
            file = own.file if own else file
            if own and distributed.rank() == 0:
                self.checkpoints.forget_after(own.step)
        if file is None:
            return 0
        if not file.is_file():
            raise UserError(f"{file}, from which this training began, is gone: type another pretrain.resume=")
        state, total = checkpoint.read(file, self.device), self.batches.total_steps
        if state["step"] > total:
            raise UserError(
                f"{file} was written after step {state['step']}, and this training has {total}: type a larger pretrain.epochs"
            )
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(setting)  # the config's, should they differ from those of the training it goes on from
        self.seconds, self.images = state["seconds"], state["images"]
        if self.monitor:
            self.monitor.below = state["collapsed_checks"]
        ranks = distributed.world_size()
        log.info(
            "%s: resumed at step %d of %d%s",
            self.title,
            state["step"],
            total,
            f", now on {ranks} processes, before on {state['ranks']}" if ranks != state["ranks"] else "",
        )
        return state["step"]
