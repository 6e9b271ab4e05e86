"""How the gradients of all ranks become their mean: while the backward pass goes on, or in one exchange after it.

A step is `gradients = parallel_of(...)`; for each of its batches, `gradients.forward(batch)` and, within
`gradients.pass_(last)`, the backward pass; `gradients.tell(numbers)` before the last of them; `gradients.finish()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsssl.batch import Batch
from rsssl.engine import distributed
from rsssl.errors import UserError


def parallel_of(kind: str, model: nn.Module, device: torch.device) -> Flat:
    """The way that `distributed=KIND` asks for; "auto" is ddp on accelerators and flat on CPUs."""
    overlapped = kind == "ddp" or (kind == "auto" and device.type == "cuda")
    return Overlapped(model) if overlapped and distributed.world_size() > 1 else Flat(model)


class Flat:
    """One exchange of all gradients and numbers. It asks nothing of the model, and is what `Overlapped` is tested
    against.

    Args:
        model: in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.numbers = model, torch.zeros(0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The model's outputs."""
        return self.model(batch)  # type: ignore[no-any-return]

    @contextmanager
    def pass_(self, last: bool) -> Iterator[None]:
        """For the forward and backward passes of a batch, of which the last of a step ends with the exchange."""
        yield

    def tell(self, numbers: Tensor) -> None:
        """Gives the others numbers (n,) float32 of this rank; to be called once a step, before the last backward pass
        where that can be."""
        self.numbers = numbers

    def finish(self) -> Tensor:
        """Once all passes are done: gradients are their means over the ranks.

        Returns:
            (n + 1,): the first number's sum over the ranks, the norm of the mean gradient (not finite when any rank's
            is not), then the other numbers' sums.
        """
        return distributed.average_gradients(self.model, self.numbers)


class Overlapped(Flat):
    """torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704): layers whose gradients are done are exchanged
    while the backward pass goes on to those before them.

    Every trained weight has to take part in every step.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        with contact():
            self.ddp = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.work: Any = None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.ddp(batch)  # type: ignore[no-any-return]

    @contextmanager
    def pass_(self, last: bool) -> Iterator[None]:
        with contact(), nullcontext() if last else self.ddp.no_sync():
            yield

    def tell(self, numbers: Tensor) -> None:
        self.numbers = numbers.clone()
        with contact():
            self.work = torch.distributed.all_reduce(self.numbers, async_op=True)

    def finish(self) -> Tensor:
        with contact():
            self.work.wait()
        norm = distributed.gradient_norm(self.model)
        return torch.cat([self.numbers[:1], norm.view(1), self.numbers[1:]])


@contextmanager
def contact() -> Iterator[None]:
    """For exchanges that torch makes by itself: what goes wrong with them is said as of those of ours.

    Raises:
        LostRank: when another rank is gone.
        UserError: for a model of which some trained weights do not take part.
    """
    distributed.group.exchanges += 1
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        text = str(error)
        if "finished reduction" in text:
            raise UserError(
                "some weights of this method got no gradient in a step, which distributed=ddp needs of all: type "
                "distributed=flat"
            ) from error
        if isinstance(error, torch.distributed.DistError) or "gloo" in text.lower():
            raise distributed.lost(error) from error
        raise
