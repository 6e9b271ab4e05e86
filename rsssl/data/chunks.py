"""A chunk of images: decoded, written into the pack's files at the images' own offsets, and recorded.

The record is a line of JSON with a checksum, kept in the progress file. After a kill, a chunk whose line is there and
whose bytes still match is not done again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.conform import Form, conform, valid_mask
from rsssl.data.raster import BadImage

CHUNK_BYTES = 8 << 20


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


def moments(pixels: np.ndarray, form: Form) -> np.ndarray:
    """(C, H, W) -> (C, 3) float64: count, sum and sum of squares of the valid pixels, in 0..1 units."""
    out = np.empty((len(pixels), 3))
    mask = valid_mask(pixels, form.nodata)
    for b, plane in enumerate(pixels):
        values = plane.ravel() if mask is None else plane[mask[b]]
        if plane.dtype == np.uint8:  # from the histogram: exact, and quicker than converting every pixel
            counts = np.bincount(values, minlength=256)
            unit = np.clip((np.arange(256) - form.low[b]) / (form.high[b] - form.low[b]), 0, 1)
            out[b] = counts.sum(), counts @ unit, counts @ (unit * unit)
        else:
            unit = np.clip((values.astype(np.float64) - form.low[b]) / (form.high[b] - form.low[b]), 0, 1)
            out[b] = unit.size, unit.sum(), unit @ unit
    return out


def do_chunk(plan: Plan, start: int, stop: int) -> dict[str, Any]:
    """Decode images start..stop into the plan's files; returns the progress record. Unusable images are left zero."""
    c, h, w = plan.shape
    pixels = np.zeros((stop - start, c, h, w), plan.form.dtype)
    stats = np.zeros((stop - start, c, 3))
    bad: dict[int, str] = {}
    done: dict[str, int] = {}
    for i in range(start, stop):
        try:
            pixels[i - start], what = conform(Path(plan.root, plan.paths[i]), plan.form)
        except BadImage as error:
            bad[i] = error.reason
            continue
        stats[i - start] = moments(pixels[i - start], plan.form)
        for step in filter(None, what.split("+")):
            done[step] = done.get(step, 0) + 1
    _write_at(plan.images, start * plan.image_bytes, pixels)
    _write_at(plan.moments, start * c * 24, stats)
    crc = zlib.crc32(stats.data, zlib.crc32(pixels.data))
    return {"start": start, "stop": stop, "crc": crc, "bad": bad, "done": done}


def _write_at(path: str, offset: int, data: np.ndarray) -> None:
    view = np.ascontiguousarray(data).data.cast("B")
    fd = os.open(path, os.O_WRONLY)
    try:
        while view:
            n = os.pwrite(fd, view, offset)
            view, offset = view[n:], offset + n
    finally:
        os.close(fd)


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
