"""From a pool of images to batches of views: the epoch's order, and one prefetching thread.

An accelerator holds the pool's images, in their stored integers, in its own memory when they fit; else they are read
ahead into pinned memory and copied. Views are made there one batch ahead, on a stream of their own. On a CPU no worker
processes are needed: batches are whole tensors.

The order of an epoch is a permutation f(split hash, seed, epoch) and a batch a slice of it, so all the loader's state
is one integer, the number of batches taken (the cursor). Where packs lie in object storage it goes group by group of
blocks (order.py), and the next group is fetched ahead.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.augment import Views
from rsssl.batch import Batch
from rsssl.data.order import BlockOrder
from rsssl.data.pool import Part, Pool, joined, widened
from rsssl.engine import memory
from rsssl.engine.device import sent
from rsssl.engine.distributed import rank, share, world_size
from rsssl.engine.progress import EVERY, duration, say
from rsssl.errors import UserError
from rsssl.models.preprocess import Preprocess

PREFETCH = 2
LAST = 10.0  # seconds that an end waits for what its thread is doing: one that is killed within torch ends the process
Tiles = tuple[np.ndarray, list[Part]]  # ids, and their images by source


@dataclass(frozen=True)
class Sampling:
    """How a pool becomes batches.

    Args:
        batch_size: images in a batch; the whole pool when it is smaller.
        epochs: passes over the pool; the last incomplete batch of a pass is left out.
        seed: of the order and of the augmentation.
        key: text that names the data (the split's hash): the order depends on it and on the seed alone.
        steps: how many in all, in place of whole epochs.
        accumulate: batches that make a step.
        size_at: (step, total_steps) -> pixels of the views; None: the network's own size at every step.
    """

    batch_size: int
    epochs: int
    seed: int
    key: str
    steps: int | None = None
    accumulate: int = 1
    size_at: Callable[[int, int], int] | None = None


class PoolBatches:
    """Batches of augmented views of a pool.

    Args:
        pool: where images come from.
        views: the augmentation.
        n_views: views of each image in a batch.
        preprocess: the size of the views and their standardisation; images are read by the card of their own pack.
        sampling: the batches' size, number and order.
        device: where the views are made.
        local: make the small views of the augmentation too.

    Attributes:
        needed: bytes of the device's memory that the training will take beside the images, where that is known.

    Raises:
        UserError: when a batch, or the pool in place of a larger one, does not divide among the processes.
    """

    def __init__(
        self,
        pool: Pool,
        views: Views,
        n_views: int,
        preprocess: Preprocess,
        sampling: Sampling,
        device: torch.device | str = "cpu",
        local: bool = False,
    ) -> None:
        self.pool, self.views, self.n_views, self.local = pool, views, n_views, local
        self.preprocess, self.sampling, self.device = preprocess, sampling, torch.device(device)
        self.batch_size = min(sampling.batch_size, len(pool))  # the same for any number of processes
        if self.batch_size % world_size():
            size = self.batch_size // world_size() * world_size()
            batch = "pretrain.batch_size" if sampling.batch_size <= len(pool) else "a batch is the whole pool:"
            raise UserError(
                f"{batch} {self.batch_size} images do not divide among {world_size()} processes: type "
                + (f"pretrain.batch_size={size}" if size else f"torchrun --nproc-per-node={self.batch_size}")
            )
        self.accumulate = sampling.accumulate
        self.batches_per_epoch = len(pool) // self.batch_size
        self.steps_per_epoch = max(1, self.batches_per_epoch // self.accumulate)
        epochs = max(1, self.batches_per_epoch * sampling.epochs // self.accumulate)
        self.total_steps = epochs if sampling.steps is None else sampling.steps
        self.needed = 0.0
        self._cached: tuple[int, rng.Order | BlockOrder] | None = None

    def ids(self, cursor: int) -> tuple[int, np.ndarray]:
        """(epoch, this rank's ids) of the global batch number `cursor`: its part of that slice of the epoch's order."""
        epoch, number = divmod(cursor, self.batches_per_epoch)
        first, own = number * self.batch_size, share(self.batch_size)
        return epoch, self._order(epoch)[first + own.start : first + own.stop]

    def _order(self, epoch: int) -> rng.Order | BlockOrder:
        cached = self._cached  # taken once: the reading thread may put another epoch there
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._drawn(epoch))
        return cached[1]

    def _drawn(self, epoch: int) -> rng.Order | BlockOrder:
        key, blocks = rng.fold(self.sampling.key, self.sampling.seed, "order", epoch), self.pool.block_starts
        return rng.Order(key, len(self.pool)) if blocks is None else BlockOrder(key, blocks)

    def start(self, cursor: int) -> Iterator[Batch]:
        """Batches from number `cursor` on; one thread reads images ahead, and on an accelerator makes views ahead, on a
        stream of its own."""
        self.settle()
        if self.device.type == "cuda":
            yield from self._made_ahead(cursor)
            return
        for epoch, ids, tiles, step in prefetched(self._read(cursor)):
            yield self._batch(epoch, ids, tiles, step)

    def _made_ahead(self, cursor: int) -> Iterator[Batch]:
        stream, here = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(here)  # the pool's images may still be on their way

        def made() -> Iterator[tuple[Batch, torch.cuda.Event]]:
            with torch.cuda.stream(stream):  # of the one thread that makes them
                for epoch, ids, tiles, step in self._read(cursor):
                    batch = self._batch(epoch, ids, self._on_device(tiles), step)
                    yield batch, stream.record_event()

        for batch, done in prefetched(made(), 1):
            here.wait_event(done)
            for tensor in (batch.views, batch.local, batch.labels, batch.places):
                if tensor is not None:  # its memory is this stream's until the work here is done
                    tensor.record_stream(here)
            yield batch

    def settle(self) -> None:
        """Takes the memory that reading takes for as long as it goes on."""
        if self.device.type == "cpu":
            memory.keep()
        elif self.pool.held is None and self.pool.fits(self.device, self.needed):
            self.pool.hold(self.device)

    def again(self, epoch: int, ids: np.ndarray, step: int) -> Batch:
        """The batch of these images in that epoch, as it was at that step."""
        return self._batch(epoch, ids, self._on_device(self._gather(epoch, ids)), step)

    def sample(self, n: int) -> Batch:
        """A batch of n images of the pool, the same at every call, at the size of the last step: for people to look
        at."""
        return self.again(0, np.sort(self._order(0)[:n]), self.total_steps - 1)

    def _gather(self, epoch: int, ids: np.ndarray) -> list[Tiles]:
        """The images of `ids`, and those of their partners when odd views show them."""
        partners = self.pool.partners
        sets = [ids] if partners is None else [ids, partners(rng.fold(self.sampling.seed, epoch), ids)]
        return [(wanted, self.pool.gather(wanted, self.device)) for wanted in sets]

    def _read(self, cursor: int) -> Iterator[tuple[int, np.ndarray, list[Tiles], int]]:
        """Of each batch from number `cursor` on: epoch, ids, images, step."""
        group = None
        for number in range(cursor, self.total_steps * self.accumulate):
            epoch, ids = self.ids(number)
            group = self._prefetched(number, group)
            yield epoch, ids, self._gather(epoch, ids), number // self.accumulate

    def _prefetched(self, number: int, last: tuple[int, int] | None) -> tuple[int, int] | None:
        """The epoch and the group of blocks that a batch lies in, where there are groups; in another one than the
        `last`, the blocks of the next group are fetched from now on."""
        epoch, batch = divmod(number, self.batches_per_epoch)
        order = self._order(epoch)
        if not isinstance(order, BlockOrder):
            return None
        group = order.group_at(batch * self.batch_size)
        if (epoch, group) != last:
            following = (order, group + 1) if group + 1 < order.n_groups else (self._drawn(epoch + 1), 0)
            if isinstance(following[0], BlockOrder):
                self.pool.prefetch(following[0].blocks(following[1]))
        return epoch, group

    def _on_device(self, tiles: list[Tiles]) -> list[Tiles]:
        """The same, with the images on the device."""
        if self.device.type != "cuda" or self.pool.held is not None:
            return tiles
        return [
            (wanted, [(positions, source, self._copied(x)) for positions, source, x in parts])
            for wanted, parts in tiles
        ]

    def _copied(self, x: Tensor) -> Tensor:
        return sent(x.view(torch.int16) if x.dtype == torch.uint16 else x, self.device)  # pinned: not copied again

    def _batch(self, epoch: int, ids: np.ndarray, tiles: list[Tiles], step: int) -> Batch:
        size_at, labels, partners = self.sampling.size_at, self.pool.labels, self.pool.partners
        preprocess = self.preprocess.at(size_at(step, self.total_steps)) if size_at else self.preprocess
        rendered = [
            self._render(
                tile, preprocess, partial(self.views.render, epoch=epoch, views=range(i, self.n_views, len(tiles)))
            )
            for i, tile in enumerate(tiles)
        ]
        views = rendered[0]  # (V, B, C, S, S)
        if len(rendered) == 2:  # even views show the images, odd ones their partners
            views = torch.stack([rendered[v % 2][v // 2] for v in range(self.n_views)])
        local = None
        if self.local and self.views.local:
            local = self._render(tiles[0], preprocess, partial(self.views.local.render, epoch=epoch))

        def of_images(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else sent(torch.from_numpy(values[ids]), self.device)

        return Batch(
            ids=torch.from_numpy(ids),
            epoch=epoch,
            views=views,
            labels=of_images(labels),
            local=local,
            key=rng.fold(self.sampling.seed, epoch, "method"),
            places=of_images(None if partners is None else partners.number),
        )

    def _render(self, tiles: Tiles, preprocess: Preprocess, render: Callable[..., Tensor]) -> Tensor:
        """The views that `render` makes of all parts, in the order of the ids, (V, B, C, s, s)."""
        ids, parts = tiles[0], joined(tiles[1])
        rendered = []
        for positions, source, x in parts:
            card = source.pack.card
            numbers = torch.from_numpy(ids[positions])
            rendered.append(render(widened(x, card.dtype), numbers, preprocess.of(card), seed=self.sampling.seed))
        positions = np.concatenate([positions for positions, _, _ in parts])
        if len(parts) == 1 and (np.diff(positions) > 0).all():
            return rendered[0]
        # rendered card by card: back into the batch's order
        return torch.cat(rendered, 1)[:, sent(torch.from_numpy(np.argsort(positions)), self.device)]


def prefetched(items: Iterator, ahead: int = PREFETCH, every: float = EVERY) -> Iterator:
    """The same items, produced ahead in a thread, so many at most; an exception there is raised here. Where none comes
    for long, a line says so, again and again after so many seconds."""
    ready: queue.Queue = queue.Queue(ahead)
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

    context = copy_context()  # it counts ranks as its caller does
    thread = threading.Thread(target=context.run, args=(work,), daemon=True)
    thread.start()
    try:
        while True:
            item, error = arrived(ready, every)
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join(LAST)


def arrived(ready: queue.Queue, every: float) -> tuple[Any, BaseException | None]:
    """What comes next, however long it takes."""
    begin = time.monotonic()
    while True:
        try:
            item: tuple[Any, BaseException | None] = ready.get(timeout=every)
            return item
        except queue.Empty:
            if rank() == 0:
                say(f"no images for {duration(time.monotonic() - begin)}: what they are read from is slow now")
