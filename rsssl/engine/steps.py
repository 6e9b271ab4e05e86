"""One step of a training after the other: forward and backward passes, the exchange between the ranks, the update.

What has to be known of a step (its loss, the norm of its gradient, requests to stop) comes from the device in one
transfer. On a CPU that is read before the weights are updated. An accelerator would stand still meanwhile: there it is
read a step late, before the next update, when it has long arrived; and what the step had changed is kept until then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch

from rsssl.batch import Batch
from rsssl.engine import distributed
from rsssl.engine.device import Arriving, autocast, seed_dropout, sent
from rsssl.engine.meter import Meter
from rsssl.engine.monitor import measured
from rsssl.engine.parallel import parallel_of
from rsssl.engine.replay import Failure, StateBefore
from rsssl.engine.stop import StopRequests
from rsssl.errors import UserError

if TYPE_CHECKING:
    from rsssl.engine.loop import Fit

MONITORED = 512  # rows of the embedding that the collapse monitor looks at


class Passes(NamedTuple):
    """What the passes of a step leave behind, while their numbers are on their way.

    Args:
        step: counted from 0.
        batches: of this rank, without their pixels.
        factor: on the peak learning rates.
        arriving: "numbers", as `Flat.finish` gives them; where the step is logged, "scalars", sums over the ranks, and
            what the monitor measures.
        names: of the scalars.
    """

    step: int
    batches: Sequence[Batch]
    factor: float
    arriving: Arriving
    names: Sequence[str]


class Settled(NamedTuple):
    """A step of which all is known.

    Args:
        step: counted from 1.
        epoch: the pass over the images, from 0.
        flags: for each signal, how many ranks were asked by it to stop.
        loss: the mean over the ranks.
        numbers: to be logged; None at steps that are not logged.
    """

    step: int
    epoch: int
    flags: list[float]
    loss: float
    numbers: dict[str, float] | None


class Steps:
    """The steps of a training.

    Args:
        fit: the training.
        step: how many are done.
        meter: of the time that is spent waiting for data.
    """

    def __init__(self, fit: Fit, step: int, meter: Meter) -> None:
        self.fit, self.meter, self.total = fit, meter, fit.batches.total_steps
        for group in fit.optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
        self.late = fit.device.type == "cuda" if fit.late is None else fit.late
        self.before = StateBefore(fit.model, fit.optimizer, fit.average if self.late else None, self.late)
        self.parallel = parallel_of(fit.exchange, fit.model, fit.device)
        self.batches: Iterator[Batch] = fit.batches.start(step * fit.batches.accumulate)
        self.waiting: Passes | None = None
        self.epoch = 0  # of the last step

    def take(self, step: int, requests: StopRequests) -> tuple[int, int, Settled | None]:
        """Takes the step.

        Args:
            step: counted from 0.
            requests: where this rank is asked to stop.

        Returns:
            How many images of all ranks it was over, how many pixels a view has, and what is known by now: of this
            step, or of the one before.

        Raises:
            AskedInVain: of one rank alone, when it is asked to stop before the step's images are there. Several ranks
                agree on it in a step, and wait.
        """
        flags = requests.flags()
        with requests.waiting() if distributed.world_size() == 1 else nullcontext():
            first = self.meter.wait_for(self.batches)
        self.before.note_buffers(step)
        passes, images, pixels = self._passes(step, first, flags)
        self.epoch = passes.batches[-1].epoch
        settled = self.settle() if self.late else self._settle(passes)
        self.waiting = passes if self.late else None
        if self.late:
            self.before.note_weights()
        self.fit.optimizer.step()
        self.fit.model.after_step(step, self.total)  # type: ignore[operator]
        if self.fit.average:
            self.fit.average.follow(step, self.total)
        return images, pixels, settled

    def settle(self) -> Settled | None:
        """Waits for the step that is still on its way, if there is one.

        Raises:
            UserError: when it was not finite; the state from before it is kept, and nothing else.
        """
        passes, self.waiting = self.waiting, None
        return None if passes is None else self._settle(passes)

    def sound(self) -> bool:
        """Whether the step that is still on its way, if there is one, was finite; waits for it."""
        return self.waiting is None or bool(self.waiting.arriving.get()["numbers"][:2].isfinite().all())

    def _passes(self, step: int, first: Batch, flags: list[float]) -> tuple[Passes, int, int]:
        fit, accumulate, ranks = self.fit, self.fit.batches.accumulate, distributed.world_size()
        factor = fit.schedule(step, self.total)
        for group in fit.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        fit.optimizer.zero_grad(set_to_none=True)
        taken = [first]
        loss = torch.zeros((), device=fit.device)
        asked = sent(torch.tensor(flags), fit.device)
        for part in range(accumulate):
            if part:
                taken.append(self.meter.wait_for(self.batches))
            seed_dropout(fit.seed, step * accumulate + part)
            last = part == accumulate - 1
            with self.parallel.pass_(last):
                with autocast(fit.device):
                    outputs = self.parallel.forward(taken[-1])
                part_loss = outputs["loss"] / accumulate
                loss += part_loss.detach()
                if last:
                    self.parallel.tell(torch.cat([loss.view(1), asked]))
                part_loss.backward()
        if after_backward := getattr(fit.model, "after_backward", None):
            after_backward(step, self.total)
        tensors, names = {"numbers": self.parallel.finish()}, list[str]()
        if (step + 1) % fit.log_every == 0 or step + 1 == self.total:
            names = [name for name, value in outputs.items() if value.ndim == 0]
            tensors["scalars"] = distributed.add_up(torch.stack([outputs[name].detach().float() for name in names]))
            if fit.monitor and "embedding" in outputs and distributed.rank() == 0:
                tensors |= measured(outputs["embedding"].detach()[:MONITORED])
        light = [replace(b, views=torch.empty(0), local=None, labels=None, places=None) for b in taken]
        images, pixels = ranks * sum(len(b.ids) for b in taken), taken[-1].views[0].shape[-1] ** 2
        return Passes(step, light, factor, Arriving(tensors), names), images, pixels

    def _settle(self, passes: Passes) -> Settled:
        there = passes.arriving.get()
        loss_sum, norm, *flags = there["numbers"].tolist()
        ranks, step, epoch = distributed.world_size(), passes.step + 1, passes.batches[-1].epoch
        loss = loss_sum / ranks
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._fail(passes, loss)
        if "scalars" not in there:
            return Settled(step, epoch, flags, loss, None)
        numbers = dict(zip(passes.names, (there["scalars"] / ranks).tolist(), strict=True))
        if self.fit.monitor and "gram" in there:
            std, rank, _ = self.fit.monitor.judge(there, step)
            numbers |= {"embedding_std": std, "effective_rank": rank}
        numbers |= {"loss": loss, "gradient_norm": norm, "lr_factor": passes.factor}
        return Settled(step, epoch, flags, loss, numbers)

    def _fail(self, passes: Passes, loss: float) -> NoReturn:
        """Keeps the step for a replay, and ends the training on all ranks."""
        fit, step = self.fit, passes.step
        failure = Failure.of(fit.model, passes.batches, step, self.total, fit.seed, loss, gradients_there=not self.late)
        if fit.checkpoints and distributed.rank() == 0:
            fit.checkpoints.save(step, fit.state(step) | self.before.state(step))
            failure.write(fit.checkpoints.folder)
        fit.wait_for_files()
        raise UserError(f"{failure.reason()} at step {step} of {self.total}: {fit.advice}")
