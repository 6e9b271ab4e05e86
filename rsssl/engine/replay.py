"""A step that went wrong, kept so that it can be taken again: which images, which random numbers, which weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import distributed
from rsssl.engine.files import write_sealed
from rsssl.models.ema import WeightAverage
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
    def of(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        step: int,
        total: int,
        seed: int,
        loss: float,
        gradients_there: bool = True,
    ) -> Failure:
        """The failure of the step over these batches, known on all ranks; all ranks call it.

        Args:
            model: with the gradients of that step.
            batches: this rank's parts of the step's batches.
            step: counted from 0.
            total: steps in all.
            seed: of the training.
            loss: the mean over the ranks.
            gradients_there: whether the gradients of that step still are.
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
            gradients=max(distributed.collect(not_finite(model) if gradients_there else []), key=len),
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


class StateBefore:
    """The state from before a step, for as long as it is not known whether the step was finite.

    Buffers (running statistics, queues, centres) are changed by the forward passes, so they are always kept; weights
    and the state of the optimizer by the update.

    Args:
        model: in training.
        optimizer: of its weights.
        average: of its weights, which follows them.
        late: whether a step is updated, and the next one's forward passes are done, before it is known.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, late: bool
    ) -> None:
        self.model, self.optimizer, self.average, self.late = model, optimizer, average, late
        self._current = dict(model.named_buffers())
        self._buffers = [{k: v.clone() for k, v in self._current.items()} for _ in range(2 if late else 1)]
        self._weights: list[Tensor] = []
        self._optimizer: dict[str, Any] = {}

    @torch.no_grad()
    def note_buffers(self, step: int) -> None:
        """To be called before the passes of a step."""
        if self._current:
            torch._foreach_copy_(list(self._slot(step).values()), list(self._current.values()))

    def _slot(self, step: int) -> dict[str, Tensor]:
        return self._buffers[step % len(self._buffers)]

    @torch.no_grad()
    def note_weights(self) -> None:
        """To be called before the update of a step, where it is known late."""
        there = self._moving()
        if len(there) == len(self._weights):
            torch._foreach_copy_(self._weights, there)
        else:  # the first step; the optimizer's state begins with the second
            self._weights = [t.detach().clone() for t in there]

    def _moving(self) -> list[Tensor]:
        states = self.optimizer.state.values()
        of_optimizer = [v for state in states for v in state.values() if isinstance(v, Tensor)]
        averaged = list(self.average.module.state_dict().values()) if self.average else []
        return [*self.model.parameters(), *averaged, *of_optimizer]

    @torch.no_grad()
    def state(self, step: int) -> dict[str, Any]:
        """The model's state before that step; where it is known late, that of the optimizer and the average too."""
        if self.late:  # all is put back as it was: nothing else will be done with it
            there = self._moving()
            torch._foreach_copy_(there[: len(self._weights)], self._weights)
            if len(there) > len(self._weights):
                self.optimizer.state.clear()
        state: dict[str, Any] = {"model": {k: self._slot(step).get(k, v) for k, v in self.model.state_dict().items()}}
        if self.late:
            state |= {"optimizer": self.optimizer.state_dict()}
            state |= {"average": self.average.module.state_dict() if self.average else None}
        return state


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradients are not finite."""
    return [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
