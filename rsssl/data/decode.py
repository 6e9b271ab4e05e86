"""All chunks of a plan: decoded by several processes, noted down one by one, and taken up again after a kill.

Each finished chunk's record is a line of JSON in the progress file. After a kill, a chunk whose line is there and whose
bytes still match the line's checksum is not decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.catalog import Catalog
from rsssl.data.chunks import Plan
from rsssl.data.disk import flushing
from rsssl.data.parallel import Chunk, run_chunks, run_on_all_ranks
from rsssl.engine.cores import cores
from rsssl.engine.progress import Progress
from rsssl.engine.ranks import local_world_size, world_size
from rsssl.errors import UserError

log = logging.getLogger(__name__)

Record = dict[str, Any]  # what `do_chunk` returns


def decode(
    plan: Plan, catalog: Catalog, chunks: list[Chunk], key: str, skip: bool, workers: int | None, title: str | None
) -> tuple[list[Record], str]:
    """Decode all images into the plan's files.

    Args:
        plan: how the images are read, and the files.
        catalog: the images.
        chunks: half-open ranges of image numbers.
        key: of the plan and its chunks; progress under another key does not count.
        skip: go on after an unusable image.
        workers: processes; None: as many as this process's share of the machine's cores.
        title: stands before the progress; None to show none.

    Returns:
        The chunks' records, and the sha256 of the file of pixels.

    Raises:
        UserError: at the first unusable image, unless `skip`.
        OSError: when the files cannot be written.
    """
    images, stats = Path(plan.images), Path(plan.moments)
    journal = images.with_name("progress.jsonl")
    records = read_progress(plan, len(catalog), journal, key)
    if records:
        log.info("taking up the packing of %s: %d chunks are done", catalog.root, len(records))
    else:
        for file, size in ((images, plan.image_bytes), (stats, plan.moments_bytes)):
            file.unlink(missing_ok=True)
            allocate(file, len(catalog) * size)
    journal.write_text("\n".join([key, *map(json.dumps, records)]) + "\n")
    digest = Digest(plan)

    def check(record: Record) -> None:
        if record["bad"] and not skip:
            number, reason = min(record["bad"])
            raise unusable(catalog.name(number), reason)
        digest.add(record["start"], record["stop"])

    for record in records:
        check(record)
    done = {(r["start"], r["stop"]) for r in records}
    before = sum(stop - start for start, stop in done)
    shown = Progress(title or "", len(catalog), "images", before, visible=title is not None)
    run = run_on_all_ranks if world_size() > 1 else run_chunks
    todo = [chunk for chunk in chunks if chunk not in done]
    results = run(plan, catalog.items, todo, workers or max(1, cores() // local_world_size()))
    with shown, open(journal, "a") as progress, flushing(images), closing(results):
        for record in results:
            progress.write(json.dumps(record) + "\n")
            progress.flush()
            records.append(record)
            shown.update(record["stop"] - record["start"])
            check(record)
    return records, digest.hexdigest()


def unusable(path: str, reason: str) -> UserError:
    """The error for an image that cannot be used, for that reason."""
    return UserError(
        f"{path} cannot be used: {reason}. Repair or remove it, or leave such files out (they are counted "
        "and listed): dataset.on_error=skip"
    )


def allocate(path: Path, size: int) -> None:
    """Claim the disk space of a file now, so that a full disk is known before the work and not after it."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def read_progress(plan: Plan, n: int, journal: Path, key: str) -> list[Record]:
    """The records of finished chunks of n images that stand under this key and whose bytes are intact."""
    images, records = Path(plan.images), []
    if not (journal.is_file() and images.is_file() and images.stat().st_size == n * plan.image_bytes):
        return []
    first, *lines = journal.read_text().split("\n")
    for line in lines if first == key else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if _intact(plan, record):
            records.append(record)
    return records


def _intact(plan: Plan, record: Record) -> bool:
    crc, n = 0, record["stop"] - record["start"]
    for path, size in ((plan.images, plan.image_bytes), (plan.moments, plan.moments_bytes)):
        with open(path, "rb") as file:
            file.seek(record["start"] * size)
            crc = zlib.crc32(file.read(n * size), crc)
    return bool(crc == record["crc"])


class Digest:
    """sha256 of the file of pixels, taken while it is written: a chunk counts once it and all before it are there."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._sha256 = plan, hashlib.sha256()
        self._at, self._ends = 0, dict[int, int]()

    def add(self, start: int, stop: int) -> None:
        """Images start..stop are written; chunks may come in any order."""
        self._ends[start] = stop
        size = self._plan.image_bytes
        while stop := self._ends.pop(self._at, 0):
            pixels = np.memmap(self._plan.images, np.uint8, "r", self._at * size, (stop - self._at) * size)
            self._sha256.update(pixels.data)
            self._at = stop

    def hexdigest(self) -> str:
        """Of what was added; of the whole file once every chunk was."""
        return self._sha256.hexdigest()
