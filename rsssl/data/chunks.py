"""A chunk of images: decoded, written into the pack's files at the images' own offsets, and recorded."""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsssl.data.conform import Form, conform, valid_mask
from rsssl.data.raster import BadImage
from rsssl.data.readers import Files, Members, Reader
from rsssl.data.scene_windows import Outside, Windows

CHUNK_BYTES = 8 << 20
IMAGES_BYTES = 1 << 20  # of images that pass through all steps together, so that they stay in the processor's cache
NUMBERS = 1 << 16  # float64, worked on at once for the same reason


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know.

    Args:
        reader: of the N images.
        form: that they are brought into.
        images: file of the pixels, (N, C, H, W) of form.dtype.
        moments: file of float64 (N, C, 3): the number of valid pixels, their sum, their sum of squares, in 0..1 units.
    """

    reader: Reader
    form: Form
    images: str
    moments: str

    def to_json(self) -> str:
        """One line of text that `from_json` reads back."""
        reader: Any = self.reader
        fields = {"kind": type(reader).__name__, "reader": asdict(reader), "form": asdict(self.form)}
        return json.dumps(fields | {"images": self.images, "moments": self.moments})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        kind = next(kind for kind in (Files, Members, Windows) if kind.__name__ == fields["kind"])
        return cls(kind(**tuples(fields["reader"])), form_of(fields["form"]), fields["images"], fields["moments"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (len(self.form.keep), *self.form.size)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.form.dtype).itemsize

    @property
    def moments_bytes(self) -> int:
        """Bytes of one image's moments."""
        return self.shape[0] * 3 * 8

    def chunks(self, n: int, chunk_bytes: int = CHUNK_BYTES) -> list[tuple[int, int]]:
        """Half-open ranges of the numbers of n images, of about so many bytes of pixels each."""
        step = max(1, min(512, chunk_bytes // self.image_bytes))
        return [(i, min(i + step, n)) for i in range(0, n, step)]


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as a dataclass had them before they were JSON."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def form_of(fields: dict[str, Any]) -> Form:
    """A form, from its fields as JSON has them."""
    return Form(**tuples(fields))


def moments(images: np.ndarray, form: Form, numbers: int = NUMBERS) -> np.ndarray:
    """Number, sum and sum of squares of the valid pixels of images, in 0..1 units.

    An image's moments do not depend on the other images, to the last bit, nor on `numbers`.

    Args:
        images: (N, C, H, W) in the form.
        form: of the images.
        numbers: how many are worked on at once, at least a band.

    Returns:
        (N, C, 3) float64.
    """
    n, c = images.shape[:2]
    if images.dtype == np.uint8:
        return _from_histograms(images.reshape(n, c, -1), form)
    low, span = _range(form)
    out = np.empty((n, c, 3))
    buffer = np.empty(max(numbers, images[0, 0].size))
    for image, result in zip(images, out, strict=True):
        mask = valid_mask(image, form.nodata)
        # As many bands at once as fit into the buffer; one by one where each has its own number of valid pixels.
        step = max(1, len(buffer) // image[0].size) if mask is None else 1
        for b in range(0, c, step):
            values = image[b : b + step].reshape(-1, image[0].size) if mask is None else image[b][mask[b]][None]
            unit = buffer[: values.size].reshape(values.shape)
            unit[:] = values
            unit -= low[b : b + step]
            unit /= span[b : b + step]
            np.clip(unit, 0, 1, out=unit)
            result[b : b + step].T[:] = np.full(len(unit), unit.shape[1]), unit.sum(axis=1), _dot(unit, unit)
    return out


def _from_histograms(planes: np.ndarray, form: Form) -> np.ndarray:
    """The moments of 8-bit bands (N, C, P): exact, and quicker than converting every pixel."""
    n, c, _ = planes.shape
    counts = np.stack([np.bincount(plane, minlength=256) for plane in planes.reshape(n * c, -1)])
    counts = counts.reshape(n, c, 256).astype(np.float64)
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


def moment_sums(moments: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """The moments of many images together, added in order: parts, each with the sum `before` it, give the same number.

    Args:
        moments: (N, C, 3) of the images.
        before: (C, 3) of the images that come before.

    Returns:
        (C, 3) float64.
    """
    if before is None:
        before = np.zeros(moments.shape[1:])
    total: np.ndarray = np.add.reduce(np.concatenate([before[None], moments]), axis=0)
    return total


def mean_std(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the valid pixels of images, in 0..1 units.

    Args:
        sums: (C, 3) of their moments, as `moment_sums` adds them.

    Returns:
        Two float64 (C,). The standard deviation of a constant band is given as 1.
    """
    count, total, squares = sums.T
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return mean, np.where(std > 1e-7, std, 1.0)


def do_chunk(plan: Plan, start: int, stop: int, items: Sequence[Any]) -> dict[str, Any]:
    """Decode images start..stop into the plan's files. The pixels of unusable images are left zero.

    Args:
        plan: what they belong to.
        start: number of the first one.
        stop: number after the last one.
        items: what the reader needs to know of each (Catalog.items).

    Returns:
        A record that can be written as JSON: "start" and "stop"; "crc" of the bytes written; "bad", pairs of an
        unusable image's number and the reason; "outside", the numbers of windows that lie mostly outside their scene;
        "done", how many images were changed in which way.
    """
    crc, bad, outside = 0, list[tuple[int, str]](), list[int]()
    done: Counter[str] = Counter()
    stats = np.empty((stop - start, plan.shape[0], 3))
    step = max(1, IMAGES_BYTES // plan.image_bytes)
    block = np.empty((step, *plan.shape), plan.form.dtype)
    with open(plan.images, "r+b", buffering=0) as file:
        for first in range(start, stop, step):
            pixels = block[: min(step, stop - first)]
            rasters = plan.reader.rasters(items[first - start :][: len(pixels)], plan.form.in_file)
            for i, (out, raster) in enumerate(zip(pixels, rasters, strict=True), first):
                try:
                    out[:], changes = conform("", plan.form, raster)
                except Outside:
                    out[:] = 0
                    outside.append(i)
                except BadImage as error:
                    out[:] = 0
                    bad.append((i, error.reason))
                else:
                    done.update(filter(None, changes.split("+")))
            stats[first - start :][: len(pixels)] = moments(pixels, plan.form)
            _write_at(file.fileno(), first * plan.image_bytes, pixels)
            crc = zlib.crc32(pixels.data, crc)
    stats[[i - start for i in (*outside, *(i for i, _ in bad))]] = 0
    with open(plan.moments, "r+b", buffering=0) as file:
        _write_at(file.fileno(), start * plan.moments_bytes, stats)
    record = {"start": start, "stop": stop, "crc": zlib.crc32(stats.data, crc), "done": dict(done)}
    return record | {"bad": bad, "outside": outside}


def _write_at(fd: int, offset: int, data: np.ndarray) -> None:
    """All of the data: the system may take a part of it at a time."""
    view = data.data.cast("B")
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n
