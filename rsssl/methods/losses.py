"""Losses that several methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK = {"cpu": 1 << 19}  # similarities at a time: what fits the caches of a CPU; 256 MiB of floats on an accelerator
_ROWS = 64  # at least: matrix products of fewer rows are slow


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function, or a method, in float32, whatever the precision around it: sums of exponentials and of squares need it."""

    @functools.wraps(loss)
    def wrapped(*arguments: Any, **options: Any) -> Tensor:
        tensors = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
        device = next(a.device.type for a in tensors if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*tensors, **options)

    return wrapped


@full_precision
def info_nce(q: Tensor, k: Tensor, temperature: float, negatives: Tensor | None = None, first: int = 0) -> Tensor:
    """Cross entropy of finding each query's own key among keys (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    Args:
        q: (n, D) queries, of any length; they and the keys are normalised here.
        k: (m, D) keys; that of query i is number first + i.
        temperature: divides the cosine similarities.
        negatives: (K, D), a queue: then each query is compared with its own key and with these, not with other keys.

    Returns:
        A scalar, the mean over queries.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    own = torch.arange(first, first + len(q), device=q.device)
    if negatives is None:
        return F.cross_entropy(q @ k.T / temperature, own)
    logits = torch.cat([(q * k[own]).sum(1, keepdim=True), q @ F.normalize(negatives, dim=1).T], 1)
    return F.cross_entropy(logits / temperature, torch.zeros_like(own))


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the cosine of predictions p (V, B, D) and targets z (V, B, D) of the same images' other views.

    The mean over ordered pairs of different views (Chen and He 2021, SimSiam, arXiv 2011.10566, equations 1 and 2).
    """
    views = len(p)
    p, z = F.normalize(p, dim=2), F.normalize(z, dim=2)
    others = z.sum(0) - z  # (V, B, D): the sum over the other views
    return -(p * others).sum(2).mean() / (views - 1)


def nt_xent(z: Tensor, temperature: float, places: Tensor | None = None) -> Tensor:
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
        places: (B,) numbers; images of one number are not told apart from each other.

    Returns:
        A scalar.

    Three lines of use::

        z = torch.randn(2, 256, 128, requires_grad=True)
        loss = nt_xent(z, temperature=0.2)
        loss.backward()
    """
    with torch.autocast(z.device.type, enabled=False):
        return _NTXent.apply(F.normalize(z.float(), dim=-1), 1 / temperature, places)  # type: ignore[no-any-return]


class _NTXent(torch.autograd.Function):
    """With s_aj the similarity of rows a and j over the temperature, L_a = log sum of exp(s_aj) over other images' rows j:

        loss = mean over pairs (a, v) of softplus(L_a - s_av)         v another view of a's image
        d loss / d s_av = -q_av,   d loss / d s_aj = g_a exp(s_aj - L_a)      q = sigmoid(L_a - s_av) / pairs, g_a = sum_v q_av

    As s is symmetric, row a of the gradient sums (g_a exp(s_aj - L_a) + g_j exp(s_aj - L_j)) z_j: a block of rows needs no
    other block's.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float, places: Tensor | None) -> Tensor:
        views, images, _ = z.shape
        places = None if places is None else places.repeat(views)  # (N,)
        flat = z.flatten(0, 1)  # (N, D), N = V * B, image i of view v at row v * B + i
        rows = max(_ROWS, _BLOCK.get(z.device.type, 1 << 26) // len(flat))
        blocks = [slice(i, min(i + rows, len(flat))) for i in range(0, len(flat), rows)]
        space = z.new_empty(2, min(rows, len(flat)), len(flat))  # all the memory that grows with N times rows
        log_sum = z.new_empty(len(flat))  # (N,): L
        for block in blocks:
            s, e = _others(flat, block, images, scale, space, places)
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
                s, e = _others(flat, block, images, scale, space, places)
                torch.sub(s, log_sum[block, None], out=e).exp_().mul_(g[block, None])
                grad[block].addmm_(e.addcmul_(s.sub_(log_sum).exp_(), g), flat)
            ctx.save_for_backward(grad.view_as(z))
        return F.softplus(gap).mul(another).sum() / pairs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None


def _others(
    flat: Tensor, block: slice, images: int, scale: float, space: Tensor, places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Similarities (n, N) of a block of rows of flat (N, D) to all rows, minus infinity to views of their own image or
    place, in the first half of `space`; and the second half, for what is made of them."""
    s, other = space[:, : block.stop - block.start]
    torch.mm(flat[block] * scale, flat.T, out=s)
    row = torch.arange(len(s), device=s.device)
    s.view(len(s), -1, images)[row, :, (row + block.start) % images] = -torch.inf
    if places is not None:
        s.masked_fill_(places[block, None] == places, -torch.inf)
    return s, other
