"""The training loop, for pre-training and fine-tuning alike: `Fit._train`, with `Fit._step` for one step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import checkpoint, distributed
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.contract import check_first_output
from rsssl.engine.device import autocast, seed_dropout
from rsssl.engine.meter import Meter
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.replay import BuffersBefore, Failure
from rsssl.engine.stop import Stopped, StopRequests
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


class StepResult(NamedTuple):
    """What one step leaves behind.

    Args:
        epoch: the pass over the images, from 0.
        images: how many, of all ranks.
        pixels: of a view.
        outputs: of the model, for this rank's last batch.
        numbers: to be logged.
        flags: for each signal, how many ranks were asked by it to stop.
    """

    epoch: int
    images: int
    pixels: int
    outputs: dict[str, Tensor]
    numbers: dict[str, float]
    flags: list[float]


@dataclass
class Fit:
    """Everything that one training needs; `run()` trains to the end, from the last checkpoint when there is one.

    Args:
        model: `forward(batch)` gives {"loss": scalar, "embedding": (n, D) if it has one, plus scalars to log}, and
            `after_step(step, total_steps)` is called after each update of the weights.
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
        buffers_before = BuffersBefore(self.model)
        self.model.train()
        check_first_output(self.model)
        batches = self.batches.start(step * self.batches.accumulate)
        meter = Meter(self.title, step, total, visible=writes)
        saved_at = time.monotonic()
        while step < total and not stopped:
            result = self._step(step, batches, buffers_before, meter, requests.flags())
            step, watch.started = step + 1, True
            self.images += result.images
            self.seconds += meter.count(result.images, result.pixels)
            if step % self.log_every == 0 or step == total:
                numbers = self._outputs(result.outputs, step) | result.numbers | meter.figures(result.numbers["loss"])
                if tracker:
                    tracker.log(step, result.epoch, numbers)

            score = -math.inf
            for call in (call for call, steps in calls if step in steps):
                numbers = call(step) or {}
                score = numbers.get(SCORE, score)
                if tracker:
                    tracker.log(step, result.epoch, numbers)
                self.model.train()
                meter.restart()

            stopped = requests.stopped(result.flags, step, total, saved=self.checkpoints is not None)
            due = time.monotonic() - saved_at > 60 * self.checkpoint_minutes
            if checkpoints and (due or score > best_score or stopped or step == total):
                checkpoints.save(step, self._state(step), None if score == -math.inf else score)
                saved_at, best_score = time.monotonic(), max(best_score, score)
        meter.close()
        if tracker:
            tracker.close(finished=not stopped)
        if stopped:
            self._wait_for_files()
            raise stopped

    def _step(
        self, step: int, batches: Iterator[Batch], buffers_before: BuffersBefore, meter: Meter, flags: list[float]
    ) -> StepResult:
        """One step: forward and backward passes, one exchange between the ranks, one update of the weights."""
        total, accumulate, ranks = self.batches.total_steps, self.batches.accumulate, distributed.world_size()
        buffers_before.note()
        factor = self.schedule(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        taken: list[Batch] = []
        loss = torch.zeros((), device=self.device)
        for part in range(accumulate):
            taken.append(meter.wait_for(batches))
            seed_dropout(self.seed, step * accumulate + part)
            with autocast(self.device):
                outputs = self.model(taken[-1])
            part_loss = outputs["loss"] / accumulate
            part_loss.backward()
            loss += part_loss.detach()

        # One exchange, and one transfer from the device, for all that a step has to know.
        local_numbers = torch.cat([loss.view(1), loss.new_tensor(flags)])
        loss_sum, norm, *flags = distributed.average_gradients(self.model, local_numbers).tolist()
        mean_loss = loss_sum / ranks
        if not (math.isfinite(mean_loss) and math.isfinite(norm)):
            self._fail(step, taken, mean_loss, buffers_before)
        self.optimizer.step()
        self.model.after_step(step, total)  # type: ignore[operator]
        if self.average:
            self.average.follow(step, total)
        images = ranks * sum(len(batch.ids) for batch in taken)
        numbers = {"loss": mean_loss, "gradient_norm": norm, "lr_factor": factor}
        pixels = taken[-1].views[0].shape[-1] ** 2
        return StepResult(taken[-1].epoch, images, pixels, outputs, numbers, flags)

    def _outputs(self, outputs: dict[str, Tensor], step: int) -> dict[str, float]:
        """The model's scalars as means over the ranks, from the device in one go, and how its embeddings are spread."""
        names = [name for name, value in outputs.items() if value.ndim == 0]
        sums = distributed.add_up(torch.stack([outputs[name].detach().float() for name in names]))
        numbers = dict(zip(names, (sums / distributed.world_size()).tolist(), strict=True))
        if self.monitor and "embedding" in outputs and distributed.rank() == 0:
            std, rank, _ = self.monitor.check(outputs["embedding"].detach()[:MONITORED], step)
            numbers |= {"embedding_std": std, "effective_rank": rank}
        return numbers

    def _fail(self, step: int, taken: list[Batch], loss: float, buffers_before: BuffersBefore) -> NoReturn:
        """Keeps the step for a replay, and ends the training on all ranks."""
        failure = Failure.of(self.model, taken, step=step, total=self.batches.total_steps, seed=self.seed, loss=loss)
        if self.checkpoints and distributed.rank() == 0:
            self.checkpoints.save(step, self._state(step) | {"model": buffers_before.state(self.model)})
            failure.write(self.checkpoints.folder)
        self._wait_for_files()
        raise UserError(f"{failure.reason()} at step {step} of {failure.total}: {self.advice}")

    def _wait_for_files(self) -> None:
        """Until the one rank that writes has written all: no rank ends before, or torchrun would end that one too."""
        if self.checkpoints:
            self.checkpoints.wait()
        distributed.broadcast(None)

    def _state(self, step: int) -> dict[str, Any]:
        """The content of a checkpoint after `step` steps."""
        return {
            "step": step,
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "images": self.images,
            "ranks": distributed.world_size(),
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
        state = checkpoint.read(file, self.device)
        step = state["step"]
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
