"""Several processes that train one model, launched by torchrun; a single process needs none of this and pays nothing.

Every rank takes its part of the global batch, consecutive images, so that what is gathered over the ranks stands in the
order in which one process would have it. Losses that compare images gather the embeddings of all ranks with a gradient, and
batch norm takes its statistics over all ranks (batch_norm.py): the averaged gradient of W ranks is that of one process on
the whole batch.
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

from rsssl.engine.ranks import rank as rank
from rsssl.engine.ranks import share as share
from rsssl.engine.ranks import world_size as world_size
from rsssl.errors import UserError

Result = TypeVar("Result")
JOIN = datetime.timedelta(minutes=10)
WAIT = datetime.timedelta(hours=24)  # rank 0 may fine-tune while the others wait; a training has a watch (watch.py)
AGAIN = "Type the same command again to go on from the last checkpoint"
parent = os.getppid()  # torchrun, when it was that which started this process
entered = 0  # exchanges begun by this rank: all ranks begin the same ones in the same order


class LostRank(UserError):
    """An exchange failed: another rank has ended, or cannot be reached."""


def start() -> None:
    """Joins torchrun's process group, once."""
    global parent
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    parent, local, backend = os.getppid(), int(os.environ.get("LOCAL_RANK", "0")), "gloo"
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # what is said between the ranks, and long waits, do not need an accelerator
    try:
        torch.distributed.init_process_group(
            backend, store=session(), rank=rank(), world_size=world_size(), timeout=WAIT
        )
    except RuntimeError as error:
        raise LostRank(f"rank {rank()} does not reach the others ({said(error)}): start all of them again") from error


def session() -> torch.distributed.Store:
    """A place for these processes alone in the store that torchrun keeps.

    torchrun may use one store for all its restarts, and there a rank can find the address of one that is dead. So each rank
    says hello with a number of its own, and rank 0 answers each newest hello with a number for all.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = torch.distributed.TCPStore(
        host, port, world_size(), is_master=not served and rank() == 0, timeout=JOIN, wait_for_workers=False
    )
    own, deadline = uuid.uuid4().hex, time.monotonic() + JOIN.total_seconds()
    name = f"rsssl/{own}"
    store.set(f"rsssl/hello/{rank()}", own)
    answered: dict[int, bytes] = {}
    while time.monotonic() < deadline:
        if rank() == 0:
            for other in range(1, world_size()):
                hello = f"rsssl/hello/{other}"
                if store.check([hello]) and (said := store.get(hello)) != answered.get(other):
                    answered[other] = said
                    store.set(f"rsssl/welcome/{other}/{said.decode()}", name)
            if store.add(f"{name}/joined", 0) == world_size() - 1:
                break
        elif store.check([f"rsssl/welcome/{rank()}/{own}"]):
            name = store.get(f"rsssl/welcome/{rank()}/{own}").decode()
            store.add(f"{name}/joined", 1)
            break
        time.sleep(0.02)
    else:
        raise LostRank(
            f"rank {rank()} has waited for the other ranks for {JOIN.total_seconds():.0f} s: start all of them"
        )
    store.set_timeout(WAIT)
    return torch.distributed.PrefixStore(name, store)


def exchange(operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """One collective operation of torch.distributed; LostRank when another rank is gone."""
    global entered
    entered += 1
    try:
        operation(*arguments, **options)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostRank(
            f"rank {rank()} of {world_size()} lost contact with the others ({said(error)}). {AGAIN}"
        ) from error


def keep_from_compiler() -> None:
    """Exchanges stay out of what torch.compile compiles. Not a decorator: its import takes two seconds, which few runs need."""
    global exchange
    exchange = torch.compiler.disable(exchange)


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; waiting for rank 0 is part of it."""
    if world_size() == 1:
        return value
    box = [value]
    exchange(torch.distributed.broadcast_object_list, box, src=0)
    return box[0]


def collect(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    exchange(torch.distributed.all_gather_object, values, value)
    return values


def together(work: Callable[[], Result]) -> Result:
    """Does a piece of work that any rank may fail at: when one has raised a UserError, all raise it, and none waits for it."""
    made: Any = None
    said = None
    try:
        made = work()
    except LostRank:
        raise
    except UserError as error:
        said = str(error)
    first = next((text for text in collect(said) if text), None)
    if first:
        raise UserError(first)
    return made


def add_up(x: Tensor) -> Tensor:
    """x becomes the sum of all ranks' x, in place; without a gradient."""
    if world_size() > 1:
        exchange(torch.distributed.all_reduce, x)
    return x


def stack(x: Tensor) -> Tensor:
    """Every rank's x, (W, *x.shape), without a gradient."""
    if world_size() == 1:
        return x[None]
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    exchange(torch.distributed.all_gather, parts, x)
    return torch.stack(parts)


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


def average_gradients(model: nn.Module, notes: Tensor) -> Tensor:
    """Replaces every gradient by its mean over the ranks, in one exchange that takes some numbers along.

    Args:
        notes: (n,) float32 numbers of this rank.

    Returns:
        (n + 1,): the first note's sum over the ranks, the norm of the mean gradient (not finite when any rank's is not),
        then the other notes' sums.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if world_size() > 1:
        flat = add_up(torch.cat([*(g.flatten() for g in gradients), notes]))
        notes = flat[-len(notes) :].clone()
        flat /= world_size()
        parts = flat[: -len(notes)].split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for g, part in zip(gradients, parts, strict=True)])
    norm = torch.stack(torch._foreach_norm(gradients)).norm()  # type: ignore[arg-type]
    return torch.cat([notes[:1], norm.view(1), notes[1:]])
