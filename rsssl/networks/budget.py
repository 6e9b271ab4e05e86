"""What a training takes, known before its first step: the steps that a number of minutes buys, and the memory.

Both are measured on a training of the same kind that is thrown away, and kept with the training: one that is resumed,
on another machine too, and a sweep take what was once worked out.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from rsssl.batch import Batch
from rsssl.engine import distributed
from rsssl.engine.device import autocast
from rsssl.engine.files import write_sealed
from rsssl.engine.loop import SCORE
from rsssl.engine.step_memory import fit_into_memory
from rsssl.engine.tracking import read_metrics
from rsssl.evaluation.online_probe import IMAGES
from rsssl.networks.plan import Plan
from rsssl.networks.recipe import MOST_EPOCHS
from rsssl.networks.training import Training
from rsssl.records import Damaged, read_sealed

log = logging.getLogger(__name__)
FILE = "budget.json"
AGAIN = "it is worked out again"
SHARES = 1000  # the schedule of sizes is looked at in so many places
TIMED = 3  # steps at each size, after one that warms up
FEW = 50  # steps, below which a curve says nothing of what more of them would bring
MANY = 400  # typed steps from which on it is said how long they will take: to find that out takes several


@dataclass(frozen=True)
class Budget:
    """What was worked out.

    Args:
        steps: of the training; None where pretrain.epochs says it.
        rows: views that go through the network together, where not all of them do.
        gigabytes: of the largest step.
        seconds: of a step, by its size in pixels; empty where nobody asked.
        ranks: that it was worked out for: with another number of them the memory is counted again.
    """

    steps: int | None
    rows: int | None
    gigabytes: float
    seconds: dict[str, float]
    ranks: int


def budget_of(planned: Plan, folder: Path, trial: Callable[[int], Training]) -> Budget:
    """The budget of a training, the same on all ranks.

    Args:
        planned: the training.
        folder: of the store, where it is kept.
        trial: makes a training of so many steps, to be measured and thrown away.

    Raises:
        UserError: when a step does not fit into memory.
    """
    ranks = distributed.world_size()
    kept: Budget | None = distributed.broadcast(read_budget(folder) if distributed.rank() == 0 else None)
    if kept is not None and kept.ranks == ranks:
        return kept
    log.info("some steps first, to know what one takes")
    training = trial(SHARES)
    method, device, images = training.method, training.device, len(training.batches.ids(0)[1])
    needed, rows = fit_into_memory(method, method.backbone, partial(largest, training), images, device, "pretrain")
    training.batches.needed = needed
    training.batches.settle()  # so that steps are measured as they will be
    keys, seconds = planned.recipe.pretrain, kept.seconds if kept else {}
    steps = keys.steps
    if kept is not None:
        steps = kept.steps
    elif planned.minutes is not None:
        steps, seconds = bought(planned, training)
    elif (steps or (keys.epochs or 1) * training.batches.steps_per_epoch) >= MANY:
        seconds = seconds_by_size(training)
    budget: Budget = distributed.broadcast(Budget(steps, rows, needed / 1e9, seconds, ranks))
    if distributed.rank() == 0:
        write_sealed(folder / FILE, asdict(budget))
    return budget


def read_budget(folder: Path) -> Budget | None:
    """The budget that a training's folder holds; None before it was worked out, and where it is damaged."""
    if not (folder / FILE).is_file():
        return None
    try:
        return Budget(**read_sealed(folder / FILE, AGAIN))
    except Damaged as error:
        log.warning("%s", error)
        return None


def bought(planned: Plan, training: Training) -> tuple[int, dict[str, float]]:
    """The steps that the plan's minutes buy, and the seconds of a step at each size."""
    assert planned.minutes is not None
    seconds = seconds_by_size(training)
    affordable = max(1, int(60 * planned.minutes / seconds_of(seconds, training, 0, SHARES) * SHARES))
    steps = min(affordable, MOST_EPOCHS * training.batches.steps_per_epoch)
    return done_before(planned) + steps, seconds


def done_before(planned: Plan) -> int:
    """Steps of the training that this one goes on from (`pretrain.resume=`)."""
    return int(planned.inputs.get("resumed", {}).get("step", 0))


def size_of(training: Training, step: int, total: int) -> int:
    """Pixels of a view at that step."""
    at, size = training.batches.sampling.size_at, training.batches.preprocess.size
    return at(step, total) if at else size


def seconds_by_size(training: Training) -> dict[str, float]:
    """Seconds of a step at each size that the training has."""
    sizes = sorted({size_of(training, step, SHARES) for step in range(SHARES)})
    return {str(size): seconds_of_step(training, size) for size in sizes}


def seconds_of(seconds: dict[str, float], training: Training, start: int, total: int) -> float:
    """Seconds of the steps from `start` on, of `total`, when a step takes so many at each size."""
    counts = Counter(size_of(training, step, total) for step in range(start, total))
    return sum(n * seconds.get(str(size), 0.0) for size, n in counts.items())  # a stage may be too short to be seen


def seconds_of_step(training: Training, size: int) -> float:
    """Seconds of one step with views of that size: making them, the forward and the backward pass."""
    batches, at = training.batches, training.batches.sampling.size_at
    step = next(s for s in range(SHARES) if at is None or at(s, SHARES) == size)
    taken = []
    for _ in range(1 + TIMED):
        begin = time.monotonic()
        for part in range(batches.accumulate):
            epoch, ids = batches.ids(part)
            batch = batches.again(epoch, ids, step)
            with autocast(training.device):
                loss = training.method(batch)["loss"]
            loss.backward()
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        taken.append(time.monotonic() - begin)
    training.method.zero_grad(set_to_none=True)
    return sum(taken[1:]) / TIMED


def largest(training: Training, images: int) -> Batch:
    """A batch of the largest step of the schedule, with so many images."""
    batches, at = training.batches, training.batches.sampling.size_at
    step = max(range(SHARES), key=lambda step: at(step, SHARES) if at else 0)
    epoch, ids = batches.ids(0)
    return batches.again(epoch, ids[:images], step)


def outlook(folder: Path, planned: Plan, steps: int) -> str | None:
    """What more time would bring, from the training's own curve: the online probe's in its second half.

    Args:
        folder: of the store, with metrics.csv.
        planned: the training.
        steps: it took.

    Returns:
        A sentence; None where nothing was measured.
    """
    rows = read_metrics(folder / "metrics.csv")
    curve = [(int(row["step"]), 100 * float(row["value"])) for row in rows if row["name"] == SCORE]
    if len(curve) < 4 or steps < FEW:
        return None
    before = next(value for step, value in reversed(curve) if step <= steps / 2 or step == curve[0][0])
    after = curve[-1][1]
    error = math.sqrt(2 * after * (100 - after) / (IMAGES // 2))  # of a difference between two shares of its images
    seen = f"in the second half the online probe went from {before:.1f} to {after:.1f} %"
    if after < before - error:
        return f"{seen}: more time would not help, a lower rate might, for example pretrain.lr={planned.lr / 3:.2g}"
    if after - before <= error:
        return f"{seen}, which is within its error of {error:.1f}: more time would bring little"
    longer = f"pretrain.minutes={2 * planned.minutes:g}" if planned.minutes else f"pretrain.steps={2 * steps}"
    return f"{seen}: more time should bring more, for example {longer}"
