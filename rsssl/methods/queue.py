"""The newest embeddings of earlier steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.engine.distributed import gather
from rsssl.methods.base import need


class Queue(nn.Module):
    """The last `length` embeddings of all ranks, first in, first out (He et al. 2020, MoCo, arXiv 1911.05722).

    It starts with random directions. Its state is saved in the checkpoint.

    Args:
        length: number of embeddings.
        width: dimensions of each.

    Raises:
        UserError: when the length is not positive.
    """

    rows: Tensor
    next: Tensor
    seen: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        need(length > 0, f"ssl.queue={length} holds nothing: type ssl.queue=1024")
        self.register_buffer("rows", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._seen: int | None = 0  # the same, which need not be asked of the device
        self.register_load_state_dict_post_hook(Queue._forget)

    def _forget(self, *_: Any) -> None:
        self._seen = None

    @property
    def full(self) -> bool:
        """Whether embeddings have replaced all random directions."""
        if self._seen is None:
            self._seen = int(self.seen)
        return self._seen >= len(self.rows)

    @torch.no_grad()
    def push(self, x: Tensor) -> None:
        """Replaces the oldest rows by the embeddings x (n, D) of every rank."""
        x = gather(x.detach().to(self.rows.dtype))[-len(self.rows) :]
        where = (self.next + torch.arange(len(x), device=x.device)) % len(self.rows)
        self.rows[where] = x
        self.next.copy_((self.next + len(x)) % len(self.rows))
        self.seen.add_(len(x))
        if self._seen is not None:
            self._seen += len(x)
