"""A step that went wrong, kept so that it can be taken again: which images, which random numbers, which weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rsssl.engine import distributed
from rsssl.engine.files import write_json

RECORD = "nonfinite.json"  # the weights are in the checkpoint of that step


@dataclass(frozen=True)
class Failure:
    """A step whose loss or gradient was not finite.

    step: counted from 0; total: steps in all. epoch, ids: of each of the step's batches, the images in the order of all
    ranks. keys: of the random numbers that a method draws. loss: as the ranks had it on average. gradients: names of the
    parameters whose gradients were not finite (of one rank, the first).
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

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Failure | None:
        file = folder / RECORD
        return cls(**json.loads(file.read_text())) if file.is_file() else None


class BuffersBefore:
    """The model's buffers (running statistics, queues, centres) as they were before the step: a forward pass moves them."""

    def __init__(self, model: nn.Module) -> None:
        self.names = [name for name, _ in model.named_buffers()]
        self.current: list[Tensor] = [b for _, b in model.named_buffers()]
        self.kept = [b.clone() for b in self.current]

    def note(self) -> None:
        """To be called before each step."""
        if self.current:
            torch._foreach_copy_(self.kept, self.current)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state before the step whose forward and backward passes are done, its update not."""
        before = dict(zip(self.names, self.kept, strict=True))
        return {name: before.get(name, value) for name, value in model.state_dict().items()}


def all_ids(ids: Sequence[Tensor]) -> list[list[int]]:
    """The ids (B,) of each of this rank's batches, joined with those of the other ranks in their order."""
    ranks = distributed.collect([part.tolist() for part in ids])
    return [[i for own in ranks for i in own[k]] for k in range(len(ids))]


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradients are not finite."""
    return [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
