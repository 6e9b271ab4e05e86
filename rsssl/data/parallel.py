"""Chunks done by several processes at once."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from rsssl.data.chunks import Plan, do_chunk
from rsssl.data.worker import Died, Worker
from rsssl.engine.ranks import rank, world_size

log = logging.getLogger(__name__)

Chunk = tuple[int, int]
Items = Callable[[range], Sequence[Any]]  # what the plan's reader needs to know of some images
ROUND = 16  # chunks that a rank does before the ranks' records are put together


def run_chunks(plan: Plan, items: Items, todo: Sequence[Chunk], workers: int) -> Generator[dict[str, Any], None, None]:
    """Do the chunks on several processes, this one among them, and yield their records as they end.

    A chunk whose worker dies is done in this process.

    Args:
        plan: what the chunks belong to.
        items: what the plan's reader needs to know of the images of a chunk.
        todo: half-open ranges of image numbers.
        workers: how many processes.

    Raises:
        OSError, UserError: of a worker.
    """
    waiting: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    results: queue.SimpleQueue[dict[str, Any] | Exception | Chunk] = queue.SimpleQueue()
    for chunk in todo:
        waiting.put(chunk)
    # Starting a process costs about as much as a few chunks; this process decodes in the meantime.
    team = [Worker(plan) for _ in range(min(workers, len(todo) // 2) - 1)]
    for worker in team:
        threading.Thread(target=_drive, args=(worker, items, waiting, results), daemon=True).start()
    try:
        for _ in todo:
            yield _next(partial(_here, plan, items), waiting, results)
    finally:
        for worker in team:
            worker.close()


def _here(plan: Plan, items: Items, chunk: Chunk) -> dict[str, Any]:
    return do_chunk(plan, *chunk, items(range(*chunk)))


def _next(
    do: Callable[[Chunk], dict[str, Any]], waiting: queue.SimpleQueue[Chunk], results: queue.SimpleQueue[Any]
) -> dict[str, Any]:
    """A record: of a worker, if one has finished; else of a chunk done here; when no chunk waits, of a worker again."""
    result: Any
    try:
        result = results.get_nowait()
    except queue.Empty:
        try:
            return do(waiting.get_nowait())
        except queue.Empty:
            result = results.get()
    if isinstance(result, Exception):
        raise result
    if isinstance(result, tuple):
        log.warning("A decoding process died; its images are decoded in the main process")
        return do(result)
    return dict(result)


def _drive(worker: Worker, items: Items, waiting: queue.SimpleQueue[Chunk], results: queue.SimpleQueue[Any]) -> None:
    """Feed one worker until nothing waits; a dead worker hands its chunks back for the main process."""
    while True:
        try:
            chunk = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            results.put(worker.do(*chunk, items(range(*chunk))))
        except Died:
            results.put(chunk)
        except Exception as error:
            results.put(error)
            return


def run_on_all_ranks(
    plan: Plan, items: Items, todo: Sequence[Chunk], workers: int
) -> Generator[dict[str, Any], None, None]:
    """`run_chunks` under torchrun, on rank 0: the ranks that wait for what it broadcasts (Store.get) do chunks too."""
    from rsssl.engine.distributed import broadcast, collect

    size = ROUND * world_size()
    for i in range(0, len(todo), size):
        part = {range(*chunk): items(range(*chunk)) for chunk in todo[i : i + size]}
        broadcast(partial(_help, plan, part, workers))
        yield from run_chunks(plan, part.__getitem__, chunks_of(part)[:: world_size()], workers)
        for records in collect(None)[1:]:
            if isinstance(records, Exception):
                raise records
            yield from records


def chunks_of(part: dict[range, Any]) -> list[Chunk]:
    return [(rows.start, rows.stop) for rows in part]


def _help(plan: Plan, part: dict[range, Sequence[Any]], workers: int) -> None:
    """This rank's chunks; an error is handed to rank 0."""
    from rsssl.engine.distributed import collect

    try:
        records: Any = list(run_chunks(plan, part.__getitem__, chunks_of(part)[rank() :: world_size()], workers))
    except Exception as error:
        records = error
    collect(records)
