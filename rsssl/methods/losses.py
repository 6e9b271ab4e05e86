"""Losses that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over V views of B images.

    For two views this is SimCLR's loss (Chen et al. 2020, arXiv 2002.05709, equation 1), averaged over all 2B anchors. For
    more, every ordered pair of views of an image is a positive pair whose denominator holds the positive itself and all
    views of all other images, and the loss is the mean over pairs (the many-view InfoNCE of Shidani et al. 2024,
    arXiv 2403.05490, the average of its pairwise losses).

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
    views, images, _ = z.shape
    flat = F.normalize(z.float(), dim=-1).flatten(0, 1)  # (VB, D), image i of view v at row v * B + i
    logits = flat @ flat.T / temperature
    image = torch.arange(images, device=z.device).repeat(views)
    same = image[:, None] == image[None, :]
    others = logits.masked_fill(same, -torch.inf).logsumexp(dim=1)  # (VB,) over all views of all other images
    # The V similarities of each anchor to the views of its own image; its own column is dropped.
    own = logits.view(views * images, views, images).gather(2, image[:, None, None].expand(-1, views, 1)).squeeze(2)
    anchor_view = torch.arange(views, device=z.device).repeat_interleave(images)
    positive = torch.arange(views, device=z.device)[None, :] != anchor_view[:, None]
    pair_loss = torch.logaddexp(own, others[:, None]) - own
    return pair_loss[positive].mean()
