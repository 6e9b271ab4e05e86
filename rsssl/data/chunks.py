"""A chunk of images: decoded, written into the pack's files at the images' own offsets, and recorded.

The record is a line of JSON with a checksum, kept in the progress file. After a kill, a chunk whose line is there and
whose bytes still match is not done again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.conform import Form, conform, valid_mask
from rsssl.data.raster import BadImage

CHUNK_BYTES = 8 << 20
CACHED = 1 << 20  # bytes that stay in the processor's cache while they are worked on


@dataclass(frozen=True)
class Plan:
    """All a worker needs: which files, their form, and where the results go."""

    root: str
    paths: tuple[str, ...]
    form: Form
    images: str  # file of pixels, (N, C, H, W) of form.dtype
    moments: str  # file of float64 (N, C, 3): valid pixels, sum, sum of squares, in 0..1 units

    def to_json(self) -> str:
        """One line of text that `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        form: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["form"].items()}
        return cls(**(fields | {"paths": tuple(fields["paths"]), "form": Form(**form)}))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (len(self.form.keep), *self.form.size)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.form.dtype).itemsize

    def chunks(self) -> list[tuple[int, int]]:
        """Half-open ranges of image numbers; they depend on the plan alone."""
        step = max(1, min(512, CHUNK_BYTES // self.image_bytes))
        return [(i, min(i + step, len(self.paths))) for i in range(0, len(self.paths), step)]


def moments(images: np.ndarray, form: Form) -> np.ndarray:
    """(N, C, H, W) -> (N, C, 3) float64: count, sum and sum of squares of the valid pixels, in 0..1 units.

    An image's moments do not depend on the others, to the last bit.
    """
    n, c = images.shape[:2]
    if images.dtype == np.uint8:
        return _from_histograms(images.reshape(n, c, -1), form)
    low, span = _range(form)
    out = np.empty((n, c, 3))
    cached = np.empty(max(1 << 16, images[0, 0].size))
    for image, found in zip(images, out, strict=True):
        mask = valid_mask(image, form.nodata)
        # As many bands at once as stay in the processor's cache; one by one where each has its own number of pixels.
        step = max(1, len(cached) // image[0].size) if mask is None else 1
        for b in range(0, c, step):
            values = image[b : b + step].reshape(-1, image[0].size) if mask is None else image[b][mask[b]][None]
            unit = cached[: values.size].reshape(values.shape)
            unit[:] = values
            unit -= low[b : b + step]
            unit /= span[b : b + step]
            np.clip(unit, 0, 1, out=unit)
            found[b : b + step].T[:] = np.full(len(unit), unit.shape[1]), unit.sum(axis=1), _dot(unit, unit)
    return out


def _from_histograms(planes: np.ndarray, form: Form) -> np.ndarray:
    """The moments of 8-bit bands (N, C, P): exact, and quicker than converting every pixel."""
    counts = np.empty((*planes.shape[:2], 256))
    for found, plane in zip(counts.reshape(-1, 256), planes.reshape(-1, planes.shape[2]), strict=True):
        found[:] = np.bincount(plane, minlength=256)
    if form.nodata is not None:
        counts[..., int(form.nodata)] = 0
    unit, squares = _levels(form)
    return np.stack([counts.sum(axis=2), _dot(counts, unit), _dot(counts, squares)], axis=2)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(.., P), (.., P) -> (..): the dot product of each row."""
    product: np.ndarray = a[..., None, :] @ b[..., None]
    return product[..., 0, 0]


@functools.cache
def _range(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """The valid range of each band, (C, 1): where it begins, and how long it is."""
    low = np.array(form.low)[:, None]
    return low, np.array(form.high)[:, None] - low


@functools.cache
def _levels(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """The 256 values of a byte in 0..1 units, and their squares: (C, 256) each."""
    low, span = _range(form)
    unit = np.clip((np.arange(256) - low) / span, 0, 1)
    return unit, unit * unit


def do_chunk(plan: Plan, start: int, stop: int) -> dict[str, Any]:
    """Decode images start..stop into the plan's files; returns the progress record. Unusable images are left zero."""
    crc, bad = 0, dict[int, str]()
    done: Counter[str] = Counter()
    stats = np.empty((stop - start, plan.shape[0], 3))
    # A few images at a time pass through all steps, so that they stay in the processor's cache.
    step = max(1, CACHED // plan.image_bytes)
    block = np.empty((step, *plan.shape), plan.form.dtype)
    with _opened(plan.images) as file:
        for first in range(start, stop, step):
            pixels = block[: min(step, stop - first)]
            for i, out in enumerate(pixels, first):
                try:
                    out[:], what = conform(os.path.join(plan.root, plan.paths[i]), plan.form)
                except BadImage as error:
                    out[:], bad[i] = 0, error.reason
                else:
                    done.update(filter(None, what.split("+")))
            stats[first - start :][: len(pixels)] = moments(pixels, plan.form)
            _write_at(file, first * plan.image_bytes, pixels)
            crc = zlib.crc32(pixels.data, crc)
    stats[[i - start for i in bad]] = 0
    with _opened(plan.moments) as file:
        _write_at(file, start * stats[0].nbytes, stats)
    return {"start": start, "stop": stop, "crc": zlib.crc32(stats.data, crc), "bad": bad, "done": dict(done)}


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_at(fd: int, offset: int, data: np.ndarray) -> None:
    view = data.data.cast("B")
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


class Digest:
    """sha256 of the pixels' file, taken while it is written: a chunk counts once it and all before it are there."""

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


def _intact(plan: Plan, record: dict[str, Any]) -> bool:
    start, n = record["start"], record["stop"] - record["start"]
    with open(plan.images, "rb") as images, open(plan.moments, "rb") as stats:
        images.seek(start * plan.image_bytes)
        stats.seek(start * plan.shape[0] * 24)
        crc = zlib.crc32(images.read(n * plan.image_bytes))
        return zlib.crc32(stats.read(n * plan.shape[0] * 24), crc) == record["crc"]


def read_progress(plan: Plan, path: Path, plan_hash: str) -> list[dict[str, Any]]:
    """The records of finished chunks that belong to this plan and whose bytes are intact."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    records = []
    if lines[0] == plan_hash:
        for line in lines[1:]:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the process was killed
            record["bad"] = {int(i): reason for i, reason in record["bad"].items()}
            if _intact(plan, record):
                records.append(record)
    return records
