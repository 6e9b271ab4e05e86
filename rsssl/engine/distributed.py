"""Several processes (ranks) that train one model, launched by torchrun; a single process needs and pays none of this.

Every rank takes its part of the global batch, consecutive images, so that what is gathered over the ranks stands in the
order in which one process would have it. Losses that compare images gather the embeddings of all ranks with a gradient,
and batch norm takes its statistics over all ranks (batch_norm.py): the averaged gradient of W ranks is that of one
process on the whole batch.
"""

from __future__ import annotations

import datetime
import os
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rsssl.engine.ranks import local_rank, local_world_size, rank, rendezvous, world_size
from rsssl.engine.ranks import share as share
from rsssl.errors import UserError

Result = TypeVar("Result")
JOIN = datetime.timedelta(minutes=10)
WAIT = datetime.timedelta(hours=24)  # rank 0 may fine-tune while the others wait; a training has a watch (watch.py)
AGAIN = "Type the same command again to go on from the last checkpoint"


class LostRank(UserError):
    """An exchange failed: another rank has ended, or cannot be reached."""


class Group:
    """What this process knows of its group of ranks. There is one, `group`, as torch has one group for each process;
    only this file changes it.

    Attributes:
        parent: the process that started this one, which is torchrun when there are several ranks.
        exchanges: how many this rank has begun: all ranks begin the same ones in the same order.
        exchange: the function that all exchanges go through, with the arguments of `_exchange`.
    """

    def __init__(self) -> None:
        self.parent, self.exchanges = os.getppid(), 0
        self.exchange: Callable[..., None] = self._exchange

    def _exchange(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """One collective operation of torch.distributed.

        Raises:
            LostRank: when another rank is gone.
        """
        self.exchanges += 1
        try:
            operation(*arguments, **options)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise lost(error) from error


group = Group()


def lost(error: Exception) -> LostRank:
    """What an exchange that failed says."""
    return LostRank(f"rank {rank()} of {world_size()} lost contact with the others ({last_line(error)}). {AGAIN}")


def start(device: str = "auto") -> None:
    """Joins torchrun's process group, once.

    Args:
        device: the name that was typed (see device.pick_device).

    Raises:
        UserError: for more processes than accelerators.
    """
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    group.parent, backend = os.getppid(), "gloo"
    if device != "cpu" and torch.cuda.is_available():
        if (processes := local_world_size()) > (there := torch.cuda.device_count()):
            raise UserError(
                f"{processes} processes need {processes} accelerators, and there are {there}: type processes={there} "
                f"(torchrun --nproc-per-node={there}), or device=cpu"
            )
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"  # plain objects, and long waits, do not need an accelerator
    try:
        store, number, ranks = session(), rank(), world_size()
        torch.distributed.init_process_group(backend, timeout=WAIT, store=store, rank=number, world_size=ranks)
    except RuntimeError as error:
        reason = f"rank {rank()} does not reach the others ({last_line(error)})"
        raise LostRank(f"{reason}: start all of them again") from error


def leave() -> None:
    """Leaves the process group while Python is whole: a tensor that one of gloo's threads still holds, and lets go of
    after Python's end, aborts the process (pytorch/pytorch#179291). NCCL's groups end with their processes: leaving one
    may wait for ranks that are at work on their own."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def session() -> torch.distributed.Store:
    """A place for these processes alone in the store where they meet.

    torchrun may use one store for all its restarts, and there a rank can find the address of one that is dead. So each
    rank says hello with a token of its own, and rank 0 answers each newest hello with the name of a place for all.
    """
    host, port, kept_by_torchrun = rendezvous()
    serves, seconds = not kept_by_torchrun and rank() == 0, JOIN.total_seconds()
    store = torch.distributed.TCPStore(host, port, world_size(), serves, JOIN, wait_for_workers=False)
    token, deadline = uuid.uuid4().hex, time.monotonic() + seconds
    place = f"rsssl/{token}"
    store.set(f"rsssl/hello/{rank()}", token)
    answered: dict[int, str] = {}
    while time.monotonic() < deadline:
        if rank() == 0:
            for other in range(1, world_size()):
                key = f"rsssl/hello/{other}"
                if store.check([key]) and (hello := store.get(key).decode()) != answered.get(other):
                    answered[other] = hello
                    store.set(f"rsssl/welcome/{other}/{hello}", place)
            if store.add(f"{place}/joined", 0) == world_size() - 1:
                break
        elif store.check([f"rsssl/welcome/{rank()}/{token}"]):
            place = store.get(f"rsssl/welcome/{rank()}/{token}").decode()
            store.add(f"{place}/joined", 1)
            break
        time.sleep(0.02)
    else:
        raise LostRank(f"rank {rank()} has waited for the other ranks for {seconds:.0f} s: start all of them")
    store.set_timeout(WAIT)
    return torch.distributed.PrefixStore(place, store)


def keep_from_compiler() -> None:
    """Keeps exchanges out of what torch.compile compiles. Only on request: the compiler's import takes two seconds."""
    group.exchange = torch.compiler.disable(group.exchange)


def last_line(error: Exception) -> str:
    """The last line of an error's message; its type when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; waiting for rank 0 is part of it."""
    if world_size() == 1:
        return value
    box = [value]
    group.exchange(torch.distributed.broadcast_object_list, box, src=0)
    return box[0]


def collect(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    group.exchange(torch.distributed.all_gather_object, values, value)
    return values


def raise_together(work: Callable[[], Result]) -> Result:
    """Does work that any rank may fail at: when one raises a UserError, all raise it, and none waits for it."""
    result: Any = None
    message = None
    try:
        result = work()
    except LostRank:
        raise
    except UserError as error:
        message = str(error)
    first = next(filter(None, collect(message)), None)
    if first:
        raise UserError(first)
    return result


def first_then_others(work: Callable[[], Result]) -> Result:
    """Work that rank 0 does before the others, who find what it has fetched; a UserError of any is raised on all."""
    first = raise_together(lambda: work() if rank() == 0 else None)
    others = raise_together(lambda: work() if rank() > 0 else None)
    return first if rank() == 0 else others  # type: ignore[return-value]


def add_up(x: Tensor) -> Tensor:
    """x becomes the sum of all ranks' x, in place; without a gradient."""
    if world_size() > 1:
        group.exchange(torch.distributed.all_reduce, x)
    return x


def stack(x: Tensor) -> Tensor:
    """Every rank's x, (W, *x.shape), without a gradient."""
    if world_size() == 1:
        return x[None]
    parts = x.new_empty(world_size() * x.numel())
    group.exchange(torch.distributed.all_gather_into_tensor, parts, x.flatten())
    return parts.view(world_size(), *x.shape)


class _Gather(torch.autograd.Function):
    """All ranks' tensors joined along `dim`; backward hands each rank the sum of all ranks' gradients for its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, x.shape[dim]
        return torch.cat(list(stack(x)), dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = add_up(grads[0].contiguous())
        return total.narrow(ctx.dim, rank() * ctx.size, ctx.size), None


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """(.., n, ..) of this rank to (.., W * n, ..) of all ranks, differentiable; the same tensor for one process."""
    return x if world_size() == 1 else _Gather.apply(x, dim)  # type: ignore[no-any-return]


def average_gradients(model: nn.Module, numbers: Tensor) -> Tensor:
    """Replaces every gradient by its mean over the ranks, in one exchange that takes some numbers along.

    Args:
        model: after the backward pass.
        numbers: (n,) float32 numbers of this rank.

    Returns:
        (n + 1,): the first number's sum over the ranks, the norm of the mean gradient (not finite when any rank's is
        not), then the other numbers' sums.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if world_size() > 1:
        flat = add_up(torch.cat([*(g.flatten() for g in gradients), numbers]))
        numbers = flat[-len(numbers) :].clone()
        flat /= world_size()
        parts = flat[: -len(numbers)].split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for g, part in zip(gradients, parts, strict=True)])
    return torch.cat([numbers[:1], gradient_norm(model).view(1), numbers[1:]])


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients together, a scalar."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()  # type: ignore[arg-type]
