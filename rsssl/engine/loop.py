"""The training loop, for pre-training and fine-tuning alike: `Fit._train`, with `Fit._step` for one step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from rsssl.batch import Batch
from rsssl.engine import checkpoint, distributed
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.contract import check_first_output
from rsssl.engine.cores import keep_threads
from rsssl.engine.meter import Meter
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.steps import Settled, Steps
from rsssl.engine.stop import AskedInVain, Stopped, StopRequests
from rsssl.engine.tracking import Tracker
from rsssl.engine.watch import Watch
from rsssl.errors import UserError
from rsssl.models.ema import WeightAverage

log = logging.getLogger(__name__)
MONITORED = 512  # rows of the embedding that the collapse monitor looks at
SCORE = "probe_oa"  # the number that tells how good a checkpoint is, where it is measured
Meanwhile = tuple[int, Callable[[int], dict[str, float] | None]]  # how many times to call, and what: see `Fit`


class Batches(Protocol):
    """Where batches come from, `accumulate` for each step: all its state is one integer, the number already taken."""

    total_steps: int
    steps_per_epoch: int
    accumulate: int

    def start(self, cursor: int) -> Iterator[Batch]: ...


@dataclass
class Fit:
    """Everything that one training needs; `run()` trains to the end, from the last checkpoint when there is one.

    Args:
        model: `forward(batch)` gives {"loss": scalar, "embedding": (n, D) if it has one, plus scalars to log}, and
            `after_step(step, total_steps)` is called after each update of the weights, and `after_backward`, if there
            is one, when the gradients are there.
        batches: what it is trained on, and for how many steps.
        optimizer: its groups' "lr" at this moment are the peak learning rates.
        schedule: (step, total_steps) -> factor in [0, 1] on the peak rates.
        device: where the model is.
        tracker: where numbers are logged, in the folder of the checkpoints.
        checkpoints: where the state is kept.
        checkpoint_minutes: between two checkpoints.
        log_every: steps between two rows of numbers.
        meanwhile: (times, call) pairs: call(step) that many times, evenly spread and after the last step, by the one
            rank that writes; any numbers that it returns are logged, and the checkpoint of the highest SCORE is kept.
        monitor: measures the embeddings every `log_every` steps and warns of a collapse.
        title: stands before the progress.
        seed: of what the network itself draws at random.
        timeout: seconds without progress after which a rank ends, when there are several.
        start_from: another training's checkpoint to begin with, where this one has none of its own.
        average: of the model's weights, which follows them.
        late: whether what is known of a step is read a step late; None: on accelerators (steps.py).
        exchange: how the ranks' gradients become one (parallel.py).
        advice: what to type after a step that was not finite.

    `seconds` and `images` count what the training has taken so far, before its last resumption too.
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
    meanwhile: Sequence[Meanwhile] = ()
    monitor: CollapseMonitor | None = None
    title: str = "training"
    seed: int = 0
    timeout: float = 600.0
    start_from: Path | None = None
    average: WeightAverage | None = None
    exchange: str = "auto"
    late: bool | None = None
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
                if self.tracker:
                    self.tracker.close(finished=False)

    def _train(self, requests: StopRequests, watch: Watch) -> None:
        total, step = self.batches.total_steps, self._resume()
        stopped: Stopped | None = None
        writes = distributed.rank() == 0  # the one rank that writes files
        tracker, checkpoints = (self.tracker, self.checkpoints) if writes else (None, None)
        if tracker and checkpoints:
            tracker.open(checkpoints.folder, step)
        best = checkpoints.best() if checkpoints else None
        best_score = -math.inf if best is None or best.score is None else best.score
        calls = [(call, evenly(times, total)) for times, call in self.meanwhile if writes]
        self.model.train()
        check_first_output(self.model)
        meter = Meter(self.title, step, total, visible=writes)
        steps, saved, saved_at = Steps(self, step, meter), step, time.monotonic()

        def logged(settled: Settled | None) -> None:
            if settled and settled.numbers is not None:
                numbers = settled.numbers | meter.figures(settled.loss)
                if tracker:
                    tracker.log(settled.step, settled.epoch, numbers)

        while step < total and not stopped:
            try:
                images, pixels, settled = steps.take(step, requests)
            except AskedInVain:
                stopped = requests.stopped(requests.flags(), step, total, saved=self.checkpoints is not None)
                logged(steps.settle())
                if checkpoints and step > saved:
                    checkpoints.save(step, self.state(step))
                break
            step, watch.started = step + 1, True
            self.images += images
            self.seconds += meter.count(images, pixels)
            logged(settled)

            score = -math.inf
            for call in (call for call, at in calls if step in at):
                numbers = call(step) or {}
                score = numbers.get(SCORE, score)
                if tracker:
                    tracker.log(step, steps.epoch, numbers)
                self.model.train()
                meter.restart()

            stopped = settled and requests.stopped(settled.flags, step, total, saved=self.checkpoints is not None)
            due = time.monotonic() - saved_at > 60 * self.checkpoint_minutes
            last = bool(stopped) or step == total
            if last:
                logged(steps.settle())
            if checkpoints and (due or score > best_score or last) and steps.sound():
                checkpoints.save(step, self.state(step), None if score == -math.inf else score)
                saved, saved_at, best_score = step, time.monotonic(), max(best_score, score)
        meter.close()
        if tracker:
            tracker.close(finished=not stopped)
        if stopped:
            self.wait_for_files()
            raise stopped

    def wait_for_files(self) -> None:
        """Until the one rank that writes has written all: no rank ends before, or torchrun would end that one too."""
        if self.checkpoints:
            self.checkpoints.wait()
        distributed.broadcast(None)

    def state(self, step: int) -> dict[str, Any]:
        """The content of a checkpoint after `step` steps."""
        return {
            "step": step,
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "images": self.images,
            "ranks": distributed.world_size(),
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,
            "collapsed_checks": self.monitor.below if self.monitor else 0,
        }

    def _resume(self) -> int:
        """Loads the last checkpoint, or the one to start from, if there is one; the number of steps done."""
        ranks, total = distributed.world_size(), self.batches.total_steps
        for group in self.optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
        file = self._newest() or self.start_from
        if file is None:
            return 0
        if not file.is_file():
            raise UserError(f"{file}, from which this training began, is gone: type another pretrain.resume=")
        state = checkpoint.read(file)
        step = state["step"]
        keep_threads(state.get("threads", 0))
        if step > total:
            raise UserError(
                f"{file} was written after step {step}, and this training has {total}: type a larger pretrain.epochs, "
                "steps or minutes"
            )
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.module.load_state_dict(state["average"])
        # The rates and the like are the config's: they may differ from those of the training that it goes on from.
        settings = {"param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(state["optimizer"] | settings)
        self.seconds, self.images = state["seconds"], state["images"]
        if self.monitor:
            self.monitor.below = state["collapsed_checks"]
        change = f", now on {ranks} processes, before on {state['ranks']}" if ranks != state["ranks"] else ""
        log.info("%s: resumed at step %d of %d%s", self.title, step, total, change)
        return step

    def _newest(self) -> Path | None:
        """This training's own newest checkpoint, the same on all ranks; damaged ones of later steps are removed."""
        if self.checkpoints is None:
            return None
        newest = distributed.broadcast(self.checkpoints.newest() if distributed.rank() == 0 else None)
        if newest and distributed.rank() == 0:
            self.checkpoints.forget_after(newest.step)
        return newest.file if newest else None


def evenly(times: int, total: int) -> set[int]:
    """`times` of the steps 1 to `total`, evenly spread, the last one among them."""
    return {round(total * (i + 1) / times) for i in range(times)}
