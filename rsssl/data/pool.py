"""The images that a training draws from: rows of one pack or of several, on disk or in an accelerator's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rsssl.data.order import GROUP
from rsssl.data.pack import Pack
from rsssl.data.places import Partners
from rsssl.data.rows import Indices, Run, before
from rsssl.engine.device import sent
from rsssl.engine.ranks import local_rank, local_world_size
from rsssl.errors import UserError

SHARE = 0.5  # of the memory of an accelerator that a training leaves free, that images may take
SLAB = 64 << 20  # bytes copied to it at a time


@dataclass(frozen=True)
class Source:
    """The images of one pack that take part."""

    pack: Pack
    indices: Indices | range  # (n,) int64 rows of the pack, sorted; not listed where they are a run, or many


Part = tuple[np.ndarray, Source, Tensor]  # positions in the batch, where from, the images (n, C, H, W) as stored


class Pool:
    """Images of one pack, or of several with the same bands, numbered 0 to N-1 in the order of the sources.

    Args:
        sources: the packs, each with the rows that take part.
        labels: (N,) int64 classes, where batches are to have them.
        partners: tiles of the same places, which the odd views of a batch then show.

    Raises:
        UserError: when the sources' bands differ, or nothing is left to train on.
    """

    def __init__(
        self, sources: Sequence[Source], labels: np.ndarray | None = None, partners: Partners | None = None
    ) -> None:
        self.sources = list(sources)
        self.rows = [
            Run(s.indices.start, s.indices.stop) if isinstance(s.indices, range) else s.indices for s in sources
        ]
        self.held: list[Tensor] | None = None  # by source, when `hold` has put them into a device's memory
        self.starts = np.cumsum([0, *(len(s.indices) for s in self.sources)])
        self.labels, self.partners = labels, partners
        if len(self) == 0:
            raise UserError("there are no images to train on: look at the dataset with rsssl-run task=pack")
        first = self.sources[0].pack.card
        for source in self.sources[1:]:
            card = source.pack.card
            if card.n_bands != first.n_bands:
                raise UserError(
                    f"{first.name} has {first.n_bands} bands and {card.name} has {card.n_bands}: datasets that are "
                    f"joined need the same bands, type pretrain.dataset={first.name} or pretrain.dataset={card.name}"
                )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def block_starts(self) -> np.ndarray | None:
        """(m + 1,) the first of each block of images that are read together, and N; None where all packs are on this
        machine, or all blocks are one group: then they are mixed like any other images."""
        if not any(source.pack.remote for source in self.sources):
            return None
        firsts = [
            start + before(rows, source.pack.block_rows())
            for start, rows, source in zip(self.starts.tolist(), self.rows, self.sources, strict=False)
        ]
        starts = np.unique(np.append(np.concatenate(firsts), len(self)))  # no block without images
        return starts if len(starts) - 1 > GROUP else None

    def prefetch(self, blocks: np.ndarray) -> None:
        """Has these of the blocks fetched in the background; the processes of a machine begin at different ones."""
        if self.block_starts is None or self.held is not None:
            return
        ids = self.block_starts[np.roll(blocks, -len(blocks) * local_rank() // local_world_size())]
        which = np.searchsorted(self.starts, ids, side="right") - 1
        for k in np.unique(which):
            self.sources[k].pack.prefetch(self.rows[k][ids[which == k] - self.starts[k]])

    def gather(self, ids: np.ndarray, device: torch.device | None = None) -> list[Part]:
        """The images of `ids` as stored, by source: (positions in the batch, source, (n, C, H, W) integers).

        They are read into memory that an accelerator copies from by itself, when they go to one as `device`.
        """
        which = np.searchsorted(self.starts, ids, side="right") - 1
        parts = []
        for k in np.unique(which):
            positions = np.flatnonzero(which == k)
            source = self.sources[k]
            rows = ids[positions] - self.starts[k]
            if self.held is None:
                x = room(source.pack, len(rows), device)
                source.pack.read(self.rows[k][rows], x.numpy())
            else:
                x = self.held[k][sent(torch.from_numpy(rows), self.held[k].device)]
            parts.append((positions, source, x))
        return parts

    def hold(self, device: torch.device) -> None:
        """Puts the pool's images into the device's memory, where `gather` takes them from then on."""
        self.held = []
        for source, rows in zip(self.sources, self.rows, strict=True):
            one = torch.from_numpy(signed(source.pack.read(rows[:1])))
            images = torch.empty((len(rows), *one.shape[1:]), dtype=one.dtype, device=device)
            step = max(1, SLAB // one.nbytes)
            for i in range(0, len(images), step):
                images[i : i + step] = torch.from_numpy(signed(source.pack.read(rows[i : i + step])))
            self.held.append(images)

    def fits(self, device: torch.device, needed: float = 0) -> bool:
        """Whether an accelerator has room for the images beside a training that takes so many bytes."""
        images = sum(len(s.indices) * s.pack.image_bytes for s in self.sources)
        return device.type == "cuda" and images < SHARE * (torch.cuda.mem_get_info(device)[0] - needed)


def room(pack: Pack, n: int, device: torch.device | None) -> Tensor:
    """Memory for n images of a pack, (n, C, H, W); pinned where they go to an accelerator."""
    dtype, pinned = torch.from_numpy(np.empty(0, pack.card.dtype)).dtype, device is not None and device.type == "cuda"
    return torch.empty((n, *pack.image_shape), dtype=dtype, pin_memory=pinned)


def signed(array: np.ndarray) -> np.ndarray:
    """The same bits; uint16, which few operations of an accelerator take, is called int16."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


def widened(x: Tensor, dtype: str) -> Tensor:
    """What `signed` made of stored numbers of `dtype`, as numbers again: int32 for uint16."""
    return x.to(torch.int32) & 0xFFFF if dtype == "uint16" and x.dtype == torch.int16 else x


def stored(pack: Pack, rows: np.ndarray, device: torch.device) -> Tensor:
    """Images of a pack on a device, as stored (n, C, H, W); uint16 is int32 on an accelerator."""
    array = pack.read(rows)
    if device.type == "cpu":
        return torch.from_numpy(array)
    return widened(torch.from_numpy(signed(array)).to(device), pack.card.dtype)


def joined(parts: list[Part]) -> list[Part]:
    """The same images in fewer parts: one for all sources whose numbers mean the same, as those of a dataset in many
    packs."""
    kinds: dict[object, list[Part]] = {}
    for part in parts:
        card = part[1].pack.card
        key = (card.dtype, card.low, card.high, card.nodata, card.size, card.nodata is not None and card.mean)
        kinds.setdefault(key, []).append(part)
    return [
        kind[0]
        if len(kind) == 1
        else (np.concatenate([p[0] for p in kind]), kind[0][1], torch.cat([p[2] for p in kind]))
        for kind in kinds.values()
    ]
