"""Comparing many images with many, in blocks of both: memory beyond the features' own does not grow with either."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rsssl.engine.distributed import collect, rank, world_size
from rsssl.engine.progress import Progress
from rsssl.evaluation.on_disk import Features

BLOCK = 16 << 20  # similarities in memory at a time: some hundred rows, as products of fewer are slow
SPAN = 1 << 16  # remembered images that are compared with at a time


@torch.no_grad()
def in_blocks(call: Callable[[Tensor], Tensor], features: Features, compared: int, divided: bool) -> Tensor:
    """call(features), in blocks: memory beyond the features' own does not grow with their number.

    Args:
        call: features (b, D) -> (b, K).
        features: (m, D).
        compared: how many images each is compared with.
        divided: under torchrun all ranks call this together and divide the work, in blocks that do not depend on their
            number.
    """
    m, rows = len(features), max(1, BLOCK // max(min(compared, SPAN), features.shape[1]))
    if not m:
        return call(features[:0])
    starts = range(0, m, rows)
    own = starts[rank() :: world_size()] if divided else starts
    found = []
    with Progress(
        "classifying", sum(min(rows, m - start) for start in own), "images", visible=len(own) > 1
    ) as progress:
        for start in own:
            found.append(call(features[start : start + rows]))
            progress.update(len(found[-1]))
    if not divided:
        return torch.cat(found)
    ranks = collect(found)
    return torch.cat([ranks[i % len(ranks)][i // len(ranks)] for i in range(len(starts))])


def nearest(unit: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest cosines of each of unit (B, D) with bank (n, D), k at most n, and their numbers, both (B, k); of
    equal ones those that stand first."""
    cosine, index = largest(unit @ bank[:SPAN].T, k)
    for start in range(SPAN, len(bank), SPAN):
        more, places = largest(unit @ bank[start : start + SPAN].T, k)
        numbers, order = torch.cat([index, places + start], 1).sort(dim=1)
        cosine, order = torch.cat([cosine, more], 1).gather(1, order).sort(dim=1, descending=True, stable=True)
        cosine, index = cosine[:, :k], numbers.gather(1, order[:, :k])
    return cosine, index


def largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (B, n), or all, and where they stand; of equal ones those that stand first."""
    if k >= similarity.shape[1]:
        value, index = similarity.topk(similarity.shape[1], dim=1)
        return value, index
    value, index = similarity.topk(k + 1, dim=1)
    tied = value[:, k] == value[:, k - 1]
    if tied.any():  # topk leaves open which of equal neighbours it takes: settle those rows by a stable sort
        order = similarity[tied].sort(dim=1, descending=True, stable=True).indices
        index[tied] = order[:, : k + 1]
    return similarity.gather(1, index[:, :k]), index[:, :k]
