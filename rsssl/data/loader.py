"""From packed images to batches of views: the pool, the epoch's order, and one prefetching thread.

An accelerator holds the pool's images, in their stored integers, in its own memory when they fit; else they are read ahead
into pinned memory and copied on a stream of their own. On a CPU no worker processes are needed: batches are whole tensors.

The order of an epoch is a permutation f(split hash, seed, epoch) and a batch a slice of it, so all the loader's state is one
integer, the number of batches taken (the cursor).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.batch import Batch
from rsssl.data.pack import Pack
from rsssl.data.places import Partners
from rsssl.engine import memory
from rsssl.engine.distributed import share, world_size
from rsssl.errors import UserError

if TYPE_CHECKING:
    from rsssl.augment import Views

PREFETCH = 2
SHARE = 0.5  # of an accelerator's free memory that images may take
SLAB = 64 << 20  # bytes copied to it at a time


@dataclass(frozen=True)
class Source:
    """The images of one pack that take part."""

    pack: Pack
    indices: np.ndarray  # (n,) int64 rows of the pack, sorted


Part = tuple[np.ndarray, Source, Tensor]  # positions in the batch, where from, the images (n, C, H, W) as stored
Tiles = tuple[np.ndarray, list[Part]]  # ids, and their images by source


class Pool:
    """Images of one pack, or of several with the same bands, numbered 0 to N-1 in the order of the sources.

    Raises:
        UserError: when the sources' bands differ, or nothing is left to train on.
    """

    def __init__(self, sources: Sequence[Source], labels: np.ndarray | None = None) -> None:
        self.sources = list(sources)
        self.held: list[Tensor] | None = None  # by source, when `hold` has put them into a device's memory
        self.starts = np.cumsum([0, *(len(s.indices) for s in self.sources)])
        self.labels = labels
        if len(self) == 0:
            raise UserError("there are no images to train on: look at the dataset with rsssl-run task=pack")
        first = self.sources[0].pack.card
        for source in self.sources[1:]:
            card = source.pack.card
            if card.n_bands != first.n_bands:
                raise UserError(
                    f"{first.name} has {first.n_bands} bands and {card.name} has {card.n_bands}: datasets that are joined need "
                    f"the same bands, type pretrain.dataset={first.name} or pretrain.dataset={card.name}"
                )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def gather(self, ids: np.ndarray) -> list[Part]:
        """The images of `ids` as stored, by source: (positions in the batch, source, (n, C, H, W) integers)."""
        which = np.searchsorted(self.starts, ids, side="right") - 1
        parts = []
        for k in np.unique(which):
            positions = np.flatnonzero(which == k)
            source = self.sources[k]
            rows = ids[positions] - self.starts[k]
            if self.held is None:
                x = torch.from_numpy(source.pack.read(source.indices[rows]))
            else:
                x = self.held[k][torch.from_numpy(rows).to(self.held[k].device)]
            parts.append((positions, source, x))
        return parts

    def hold(self, device: torch.device) -> None:
        """Puts the pool's images into the device's memory, where `gather` takes them from then on."""
        self.held = []
        for source in self.sources:
            bytes_each = source.pack.images[:1].nbytes
            step = max(1, SLAB // bytes_each)
            slabs = (source.pack.read(source.indices[i : i + step]) for i in range(0, len(source.indices), step))
            self.held.append(torch.cat([torch.from_numpy(signed(slab)).to(device) for slab in slabs]))

    def fits(self, device: torch.device) -> bool:
        """Whether an accelerator has room for the images beside a training."""
        needed = sum(len(s.indices) * s.pack.images[:1].nbytes for s in self.sources)
        return device.type == "cuda" and needed < SHARE * torch.cuda.mem_get_info(device)[0]


def signed(array: np.ndarray) -> np.ndarray:
    """The same bits; uint16, which few operations of an accelerator take, is called int16."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


def widened(x: Tensor, dtype: str) -> Tensor:
    """What `signed` made of stored numbers of `dtype`, as numbers again: int32 for uint16."""
    return x.to(torch.int32) & 0xFFFF if dtype == "uint16" and x.dtype == torch.int16 else x


def stored(pack: Pack, rows: np.ndarray, device: torch.device) -> Tensor:
    """Images of a pack on a device, as stored (n, C, H, W); uint16 is int32 on an accelerator."""
    array = pack.read(rows)
    return (
        torch.from_numpy(array)
        if device.type == "cpu"
        else widened(torch.from_numpy(signed(array)).to(device), pack.card.dtype)
    )


class PoolBatches:
    """Batches of augmented views of a pool, in an order that depends on `order_key` and `seed` alone.

    Args:
        pool: where images come from.
        views: the augmentation; `n_views` views of each image are rendered.
        batch_size: images a step; the whole pool when it is smaller.
        epochs: passes over the pool; the last incomplete batch of a pass is left out.
        size_at: (step, total_steps) -> size in pixels of the rendered views.
        mean, std: per band, in units of 0 to 1, of the standardisation.
        seed: of the order and of the augmentation.
        order_key: text that names the data (the split's hash).
        steps: how many in all, in place of whole epochs.
        local: render the augmentation's small views as well.
        partners: tiles of the same places, which the odd views then show.
        accumulate: batches that make a step.

    Raises:
        UserError: when a batch, or the pool in place of a larger one, does not divide among the processes.
    """

    def __init__(
        self,
        pool: Pool,
        views: Views,
        n_views: int,
        batch_size: int,
        epochs: int,
        size_at: Callable[[int, int], int],
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        order_key: str,
        device: torch.device | str = "cpu",
        steps: int | None = None,
        local: bool = False,
        partners: Partners | None = None,
        accumulate: int = 1,
    ) -> None:
        self.pool, self.views, self.n_views, self.local, self.partners = pool, views, n_views, local, partners
        self.batch_size = min(batch_size, len(pool))  # the same for any number of processes
        if self.batch_size % world_size():
            size = self.batch_size // world_size() * world_size()
            what = "pretrain.batch_size" if batch_size <= len(pool) else "a batch is the whole pool:"
            raise UserError(
                f"{what} {self.batch_size} images do not divide among {world_size()} processes: type "
                + (f"pretrain.batch_size={size}" if size else f"torchrun --nproc-per-node={self.batch_size}")
            )
        self.accumulate = accumulate
        self.batches_per_epoch = len(pool) // self.batch_size
        self.steps_per_epoch = max(1, self.batches_per_epoch // accumulate)
        self.total_steps = max(1, self.batches_per_epoch * epochs // accumulate) if steps is None else steps
        self.size_at, self.mean, self.std = size_at, mean, std
        self.seed, self.order_key, self.device = seed, order_key, torch.device(device)
        self._cached: tuple[int, rng.Order] | None = None

    def ids(self, cursor: int) -> tuple[int, np.ndarray]:
        """(epoch, this rank's ids) of the global batch number `cursor`: its part of that slice of the epoch's order."""
        epoch, number = divmod(cursor, self.batches_per_epoch)
        first, own = number * self.batch_size, share(self.batch_size)
        return epoch, self._order(epoch)[first + own.start : first + own.stop]

    def _order(self, epoch: int) -> rng.Order:
        cached = self._cached  # taken once: the reading thread may put another epoch there
        if cached is None or cached[0] != epoch:
            key = rng.fold(self.order_key, self.seed, "order", epoch)
            self._cached = cached = (epoch, rng.Order(key, len(self.pool)))
        return cached[1]

    def start(self, cursor: int) -> Iterator[Batch]:
        """Batches from number `cursor` on; images are read ahead by one thread."""
        if self.device.type == "cpu":
            memory.keep()
        elif self.pool.held is None and self.pool.fits(self.device):
            self.pool.hold(self.device)
        for epoch, ids, tiles, step, copied in prefetched(self._read(cursor)):
            if copied is not None:
                torch.cuda.current_stream(self.device).wait_event(copied)
            yield self._batch(epoch, ids, tiles, self.size_at(step, self.total_steps))

    def again(self, epoch: int, ids: np.ndarray, step: int) -> Batch:
        """The batch of these images in that epoch, as it was at that step."""
        return self._batch(epoch, ids, self._there(self._gather(epoch, ids)), self.size_at(step, self.total_steps))

    def sample(self, n: int) -> Batch:
        """A batch of n images of the pool, the same at every call, at the size of the last step: for people to look at."""
        return self.again(0, np.sort(self._order(0)[:n]), self.total_steps - 1)

    def _gather(self, epoch: int, ids: np.ndarray) -> list[Tiles]:
        """The images of `ids`, and those of their partners when odd views show them."""
        sets = [ids] if self.partners is None else [ids, self.partners(rng.fold(self.seed, epoch), ids)]
        return [(wanted, self.pool.gather(wanted)) for wanted in sets]

    def _read(self, cursor: int) -> Iterator[tuple[int, np.ndarray, list[Tiles], int, torch.cuda.Event | None]]:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" and self.pool.held is None else None
        for number in range(cursor, self.total_steps * self.accumulate):
            epoch, ids = self.ids(number)
            step = number // self.accumulate
            tiles = self._gather(epoch, ids)
            if stream is None:
                yield epoch, ids, tiles, step, None
                continue
            with torch.cuda.stream(stream):
                there = self._there(tiles)
            yield epoch, ids, there, step, stream.record_event()

    def _there(self, tiles: list[Tiles]) -> list[Tiles]:
        """The same, with the images on the device."""
        if self.device.type != "cuda" or self.pool.held is not None:
            return tiles
        return [
            (wanted, [(positions, source, self._copied(x)) for positions, source, x in parts])
            for wanted, parts in tiles
        ]

    def _copied(self, x: Tensor) -> Tensor:
        return torch.from_numpy(signed(x.numpy())).pin_memory().to(self.device, non_blocking=True)

    def _batch(self, epoch: int, ids: np.ndarray, tiles: list[Tiles], size: int) -> Batch:
        made = [
            self._render(
                epoch, wanted, parts, size, partial(self.views.render, views=range(first, self.n_views, len(tiles)))
            )
            for first, (wanted, parts) in enumerate(tiles)
        ]
        views = made[0]  # (V, B, C, S, S)
        if len(made) == 2:  # even views show the images, odd ones their partners
            views = torch.stack([made[v % 2][v // 2] for v in range(self.n_views)])
        local = (
            self._render(epoch, *tiles[0], size, self.views.local.render) if self.local and self.views.local else None
        )
        labels = self.pool.labels
        return Batch(
            torch.from_numpy(ids),
            epoch,
            views,
            None if labels is None else torch.from_numpy(labels[ids]).to(self.device),
            local,
            rng.fold(self.seed, epoch, "method"),
            None if self.partners is None else torch.from_numpy(self.partners.number[ids]).to(self.device),
        )

    def _render(
        self, epoch: int, ids: np.ndarray, parts: list[Part], size: int, render: Callable[..., Tensor]
    ) -> Tensor:
        """The views that `render` makes of all parts, in the order of ids, (V, B, C, s, s)."""
        rendered = []
        parts = joined(parts)
        for positions, source, x in parts:
            if x.is_cuda:  # made on another stream, perhaps: its memory is this one's until the work here is done
                x.record_stream(torch.cuda.current_stream(self.device))
            x = widened(x, source.pack.card.dtype)
            rendered.append(
                render(
                    x,
                    torch.from_numpy(ids[positions]),
                    source.pack.card,
                    seed=self.seed,
                    epoch=epoch,
                    size=size,
                    mean=self.mean,
                    std=self.std,
                )
            )
        positions = np.concatenate([positions for positions, _, _ in parts])
        if len(parts) == 1 and (np.diff(positions) > 0).all():
            return rendered[0]
        # rendered card by card: back into the batch's order
        return torch.cat(rendered, 1)[:, torch.from_numpy(np.argsort(positions)).to(self.device)]


def joined(parts: list[Part]) -> list[Part]:
    """The same images in fewer parts: one for all sources whose numbers mean the same, as those of a dataset in many packs."""
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


def prefetched(items: Iterator) -> Iterator:
    """The same items, produced up to PREFETCH ahead in a thread; an exception there is raised here."""
    ready: queue.Queue = queue.Queue(PREFETCH)
    stop = threading.Event()

    def work() -> None:
        try:
            for item in items:
                while not stop.is_set():
                    try:
                        ready.put((item, None), timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
            ready.put((None, StopIteration()))
        except BaseException as error:  # handed over, not swallowed
            ready.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
