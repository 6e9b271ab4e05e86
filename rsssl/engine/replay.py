"""A step that went wrong, kept so that it can be taken again: which images, which random numbers, which weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import distributed
from rsssl.engine.files import write_sealed
from rsssl.records import read_sealed

RECORD = "nonfinite.json"  # the weights are in the checkpoint of that step


@dataclass(frozen=True)
class Failure:
    """A step whose loss or gradient was not finite.

    Args:
        step: counted from 0.
        total: steps in all.
        seed: of the training.
        epochs: the pass over the images, for each of the step's batches.
        ids: for each batch, its images' numbers in the order of all ranks.
        keys: for each batch, the key of the random numbers that a method draws.
        loss: the mean over the ranks.
        gradients: names of the parameters whose gradients were not finite, on the rank that has the most of them.
        ranks: how many there were.
    """

    step: int
    total: int
    seed: int
    epochs: list[int]
    ids: list[list[int]]
    keys: list[int]
    loss: float
    gradients: list[str]
    ranks: int

    @classmethod
    def of(cls, model: nn.Module, batches: Sequence[Batch], step: int, total: int, seed: int, loss: float) -> Failure:
        """The failure of the step over these batches, known on all ranks; all ranks call it.

        Args:
            model: with the gradients of that step.
            batches: this rank's parts of the step's batches.
            step: counted from 0.
            total: steps in all.
            seed: of the training.
            loss: the mean over the ranks.
        """
        parts = distributed.collect([batch.ids.tolist() for batch in batches])
        return cls(
            step,
            total,
            seed,
            epochs=[batch.epoch for batch in batches],
            ids=[[number for part in parts for number in part[k]] for k in range(len(batches))],
            keys=[batch.key for batch in batches],
            loss=loss,
            gradients=max(distributed.collect(not_finite(model)), key=len),
            ranks=distributed.world_size(),
        )

    def reason(self) -> str:
        """What was not finite, as the beginning of a sentence."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return f"the gradient of {(self.gradients or ['the model'])[0]} is not finite"

    def write(self, folder: Path) -> None:
        """Writes it into the training's folder."""
        write_sealed(folder / RECORD, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Failure | None:
        """The one kept in the training's folder; None when there is none. Raises Damaged."""
        file = folder / RECORD
        again = "type the command that failed, all of it, without task=replay"
        return cls(**read_sealed(file, again)) if file.is_file() else None


class BuffersBefore:
    """The model's buffers (running statistics, queues, centres) from before the step: forward passes change them."""

    def __init__(self, model: nn.Module) -> None:
        self._current = dict(model.named_buffers())
        self._before = {name: buffer.clone() for name, buffer in self._current.items()}

    def note(self) -> None:
        """To be called before each step."""
        if self._current:
            torch._foreach_copy_(list(self._before.values()), list(self._current.values()))

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state before the step whose forward and backward passes are done, and its update is not."""
        return {name: self._before.get(name, value) for name, value in model.state_dict().items()}


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradients are not finite."""
    return [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
