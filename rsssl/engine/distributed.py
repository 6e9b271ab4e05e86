"""Several processes that train one model, launched by torchrun; a single process needs none of this and pays nothing.

Every rank takes every W-th image of the global batch. Losses that compare images gather the embeddings of all ranks with a
gradient, so that the averaged gradient of W ranks is that of one process on the whole batch (batch norm's statistics are
synchronised on accelerators; on CPUs they are each rank's own).
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.engine.ranks import rank as rank
from rsssl.engine.ranks import world_size as world_size

WAIT = datetime.timedelta(hours=24)  # rank 0 may pack a large dataset while the others wait


def start() -> None:
    """Joins torchrun's process group, once."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group(backend, timeout=WAIT)


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; waiting for rank 0 is part of it."""
    if world_size() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


class _Gather(torch.autograd.Function):
    """All ranks' tensors joined along `dim`; backward hands each rank the sum of all ranks' gradients for its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, x.shape[dim]
        parts = [torch.empty_like(x) for _ in range(world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous()
        torch.distributed.all_reduce(total)
        return total.narrow(ctx.dim, rank() * ctx.size, ctx.size), None


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """(.., n, ..) of this rank to (.., W * n, ..) of all ranks, differentiable; the same tensor for one process."""
    return x if world_size() == 1 else _Gather.apply(x, dim)  # type: ignore[no-any-return]


def average_gradients(model: nn.Module) -> None:
    """Replaces every gradient by its mean over the ranks, in one exchange."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world_size()
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Batch norm over the global batch, where torch has it (accelerators)."""
    if world_size() > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model
