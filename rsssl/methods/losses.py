"""Losses that several methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rsssl.engine.distributed import rank, stack, world_size

Result = TypeVar("Result")


def full_precision(loss: Callable[..., Result]) -> Callable[..., Result]:
    """Makes a function or a method compute in float32 under any precision: sums of exponentials and squares need it.

    It may give anything. The tensors that it is given by position become float32, those by keyword stay as they are.
    """

    @functools.wraps(loss)
    def wrapped(*arguments: Any, **options: Any) -> Result:
        tensors = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
        device = next(a.device.type for a in tensors if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*tensors, **options)

    return wrapped


def classification(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy, in float32, and the share of right answers.

    Args:
        logits: (n, K).
        target: (n,) int64, the right answers.

    Returns:
        Two scalars.
    """
    logits = logits.float()
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@full_precision
def info_nce(q: Tensor, k: Tensor, temperature: float, negatives: Tensor | None = None, first: int = 0) -> Tensor:
    """Cross entropy of finding each query's key among all keys.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    Args:
        q: (n, D) queries, of any length; they and the keys are normalised here.
        k: (m, D) keys; that of query i is number first + i.
        temperature: divides the cosine similarities.
        negatives: (K, D), a queue: then each query is compared with its own key and with these, not with other keys.
        first: number of the first query's key.

    Returns:
        A scalar, the mean over queries.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    key = torch.arange(first, first + len(q), device=q.device)
    if negatives is None:
        return F.cross_entropy(q @ k.T / temperature, key)
    logits = torch.cat([(q * k[key]).sum(1, keepdim=True), q @ F.normalize(negatives, dim=1).T], 1)
    return F.cross_entropy(logits / temperature, torch.zeros_like(key))


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the cosine of predictions and targets (Chen and He 2021, SimSiam, arXiv 2011.10566, equations 1 and 2).

    Args:
        p: (V, B, D) predictions from V views of B images.
        z: (V, B, D) targets; a prediction is compared with the targets of the same image's other views.

    Returns:
        A scalar, the mean over ordered pairs of different views.
    """
    views = len(p)
    p, z = F.normalize(p, dim=2), F.normalize(z, dim=2)
    others = z.sum(0) - z  # (V, B, D): the sum over the other views
    return -(p * others).sum(2).mean() / (views - 1)


def nt_xent(z: Tensor, temperature: float, places: Tensor | None = None, rows: int | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy over V views of the images of all ranks, in memory linear in them.

    For two views this is SimCLR's loss (Chen et al. 2020, arXiv 2002.05709, equation 1), averaged over all anchors.
    For more, every ordered pair of views of an image is a positive pair whose denominator holds the positive itself and
    all views of all other images, and the loss is the mean over pairs (the many-view InfoNCE of Shidani et al. 2024,
    arXiv 2403.05490, the average of its pairwise losses).

    Each rank works out the rows of its own images against the images of all. The matrix of similarities is never in
    memory as a whole: a block of its rows is computed at a time, once for the loss and once for the gradient, which is
    exact and computed in the forward pass.

    Args:
        z: (V, B, D) embeddings of this rank's images, of any length; they are normalised here.
        temperature: divides the cosine similarities.
        places: (B,) numbers; images with the same number are not told apart from each other.
        rows: rows in a block. By default as many as fit the caches of a CPU, or 256 MiB of an accelerator, and at least
            64, as matrix products of fewer rows are slow.

    Returns:
        A scalar, the mean over this rank's pairs; the mean over the ranks is the loss of one process on all images, in
        value and gradient.

    Three lines of use::

        z = torch.randn(2, 256, 128, requires_grad=True)
        loss = nt_xent(z, temperature=0.2)
        loss.backward()
    """
    device, own = z.device.type, z.shape[0] * z.shape[1]
    rows = min(own, rows or max(64, (1 << 19 if device == "cpu" else 1 << 26) // (own * world_size())))
    with torch.autocast(device, enabled=False):
        loss: Tensor = _NTXent.apply(F.normalize(z.float(), dim=-1), 1 / temperature, places, rows)
    return loss


class _NTXent(torch.autograd.Function):
    """The loss and its gradient.

    With s_aj the similarity of rows a and j divided by the temperature, v another view of a's image, and L_a the
    logarithm of the sum of exp(s_aj) over the rows j of other images:

        loss = mean over pairs (a, v) of softplus(L_a - s_av)
        d loss / d s_av = -q_av,                   q_av = sigmoid(L_a - s_av) / pairs
        d loss / d s_aj = g_a exp(s_aj - L_a),     g_a = sum over v of q_av

    As s is symmetric, row a of the gradient sums (g_a exp(s_aj - L_a) + g_j exp(s_aj - L_j)) z_j: it needs no other
    row's similarities, only the L and g of all. So the ranks exchange z, and then two numbers a row, and each has the
    whole gradient of its own rows. It is that of the sum of all ranks' losses, whose mean the ranks take afterwards.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float, places: Tensor | None, rows: int) -> Tensor:
        views, images, _ = z.shape
        own, flat = z.flatten(0, 1), of_all_ranks(z).flatten(0, 1)  # (n, D), n = V * B; (N, D), view after view
        blocks = [slice(i, min(i + rows, len(own))) for i in range(0, len(own), rows)]
        number = torch.arange(images, device=z.device).add_(rank() * images).repeat(views)  # (n,) of each row's image
        same = None
        if places is not None:
            same = places.repeat(views), of_all_ranks(places[None])[0].repeat(views)  # (n,), (N,)
        space = z.new_empty(2, rows, len(flat))  # all the memory that grows with n times N

        def similarities(block: slice) -> tuple[Tensor, Tensor]:
            """Of a block of rows to all, (m, N), minus infinity to the same image or place; and room for as much."""
            s, room = space[:, : block.stop - block.start]
            torch.mm(own[block] * scale, flat.T, out=s)
            by_view = s.view(len(s), views, -1)
            by_view.scatter_(2, number[block, None, None].expand(-1, views, -1), -torch.inf)
            if same is not None:
                s.masked_fill_(same[0][block, None] == same[1], -torch.inf)
            return s, room

        log_sum = z.new_empty(len(own))  # (n,): L
        for block in blocks:
            s, e = similarities(block)
            top = s.amax(1).clamp_min(torch.finfo(z.dtype).min)  # minus infinity where there is no other image
            torch.sub(s, top[:, None], out=e)
            log_sum[block] = e.exp_().sum(1).log() + top

        same_image = torch.einsum("vbd,wbd->bvw", z, z) * scale  # (B, V, V)
        gap = log_sum.view(views, images).T[:, :, None] - same_image
        pairs = images * views * (views - 1)
        another = ~torch.eye(views, dtype=torch.bool, device=z.device)
        if ctx.needs_input_grad[0]:
            q = gap.sigmoid().mul(another) * (scale / pairs)  # with the factor of s = scale * z z'
            grad = torch.einsum("bvw,wbd->vbd", -(q + q.transpose(1, 2)), z).flatten(0, 1)
            log_sum.clamp_min_(torch.finfo(z.dtype).min)
            mine = torch.stack([log_sum, q.sum(2).T.flatten()]).view(2, views, images)  # L and g
            sums, g = of_all_ranks(mine.flatten(0, 1)).view(2, -1)  # (N,) each
            for block in blocks:
                s, e = similarities(block)
                torch.sub(s, log_sum[block, None], out=e).exp_().mul_(mine[1].flatten()[block, None])
                grad[block].addmm_(e.addcmul_(s.sub_(sums).exp_(), g), flat)
            ctx.save_for_backward(grad.view_as(z))
        return F.softplus(gap).mul(another).sum() / pairs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None


def of_all_ranks(x: Tensor) -> Tensor:
    """(V, B, ...) of this rank -> (V, W * B, ...) of all, in their order, without a gradient."""
    return stack(x).movedim(0, 1).flatten(1, 2)
