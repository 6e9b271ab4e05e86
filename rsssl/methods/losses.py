"""Losses that several methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK = {"cpu": 1 << 19}  # similarities at a time: what fits the caches of a CPU; 256 MiB of floats on an accelerator
_ROWS = 64  # at least: matrix products of fewer rows are slow


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over V views of B images, in memory linear in V * B.

    For two views this is SimCLR's loss (Chen et al. 2020, arXiv 2002.05709, equation 1), averaged over all 2B anchors. For
    more, every ordered pair of views of an image is a positive pair whose denominator holds the positive itself and all
    views of all other images, and the loss is the mean over pairs (the many-view InfoNCE of Shidani et al. 2024,
    arXiv 2403.05490, the average of its pairwise losses).

    The matrix of similarities is never whole in memory: it is made a block of rows at a time, once for the loss and once
    for the gradient, which is exact and worked out in the forward pass.

    Args:
        z: (V, B, D) embeddings, of any length; they are normalised here.
        temperature: divides the cosine similarities.

    Returns:
        A scalar.

    Three lines of use::

        z = torch.randn(2, 256, 128, requires_grad=True)
        loss = nt_xent(z, temperature=0.2)
        loss.backward()
    """
    with torch.autocast(z.device.type, enabled=False):
        return _NTXent.apply(F.normalize(z.float(), dim=-1), 1 / temperature)  # type: ignore[no-any-return]


class _NTXent(torch.autograd.Function):
    """With s_aj the similarity of rows a and j over the temperature, L_a = log sum of exp(s_aj) over other images' rows j:

        loss = mean over pairs (a, v) of softplus(L_a - s_av)         v another view of a's image
        d loss / d s_av = -q_av,   d loss / d s_aj = g_a exp(s_aj - L_a)      q = sigmoid(L_a - s_av) / pairs, g_a = sum_v q_av

    As s is symmetric, row a of the gradient sums (g_a exp(s_aj - L_a) + g_j exp(s_aj - L_j)) z_j: a block of rows needs no
    other block's.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float) -> Tensor:
        views, images, _ = z.shape
        flat = z.flatten(0, 1)  # (N, D), N = V * B, image i of view v at row v * B + i
        rows = max(_ROWS, _BLOCK.get(z.device.type, 1 << 26) // len(flat))
        blocks = [slice(i, min(i + rows, len(flat))) for i in range(0, len(flat), rows)]
        space = z.new_empty(2, min(rows, len(flat)), len(flat))  # all the memory that grows with N times rows
        log_sum = z.new_empty(len(flat))  # (N,): L
        for block in blocks:
            s, e = _others(flat, block, images, scale, space)
            top = s.amax(1).clamp_min(torch.finfo(z.dtype).min)  # where there is no other image all is minus infinity
            torch.sub(s, top[:, None], out=e)
            log_sum[block] = e.exp_().sum(1).log() + top

        own = torch.einsum("vbd,wbd->bvw", z, z) * scale  # (B, V, V)
        gap = log_sum.view(views, images).T[:, :, None] - own
        pairs = images * views * (views - 1)
        another = ~torch.eye(views, dtype=torch.bool, device=z.device)
        if ctx.needs_input_grad[0]:
            q = gap.sigmoid().mul(another) * (scale / pairs)  # s = scale * z z': its factor is taken along
            grad = torch.einsum("bvw,wbd->vbd", -(q + q.transpose(1, 2)), z).flatten(0, 1)
            g = q.sum(2).T.flatten()  # (N,)
            log_sum.clamp_min_(torch.finfo(z.dtype).min)
            for block in blocks:
                s, e = _others(flat, block, images, scale, space)
                torch.sub(s, log_sum[block, None], out=e).exp_().mul_(g[block, None])
                grad[block].addmm_(e.addcmul_(s.sub_(log_sum).exp_(), g), flat)
            ctx.save_for_backward(grad.view_as(z))
        return F.softplus(gap).mul(another).sum() / pairs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None


def _others(flat: Tensor, block: slice, images: int, scale: float, space: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities (n, N) of a block of rows of flat (N, D) to all rows, minus infinity to views of their own image, in
    the first half of `space`; and the second half, for what is made of them."""
    s, other = space[:, : block.stop - block.start]
    torch.mm(flat[block] * scale, flat.T, out=s)
    row = torch.arange(len(s), device=s.device)
    s.view(len(s), -1, images)[row, :, (row + block.start) % images] = -torch.inf
    return s, other
