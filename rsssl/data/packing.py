"""From the files of a dataset to its pack: decoded by several processes, taken up again after a kill."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rsssl.data.catalog import Catalog, name_of
from rsssl.data.chunks import CHUNK_BYTES, Plan, mean_std, moment_sums
from rsssl.data.conform import Form
from rsssl.data.dataset import Dataset
from rsssl.data.decode import Record, decode, unusable
from rsssl.data.find_form import find_form
from rsssl.data.pack import CARD, PACK_VERSION, Pack
from rsssl.data.scene_windows import report_outside
from rsssl.data.write_pack import Content, write_pack
from rsssl.engine.files import NO_SPACE, sha256, sha256_of, write_error
from rsssl.errors import UserError
from rsssl.models.card import SensorCard

log = logging.getLogger(__name__)

PIXELS = "images.part"  # of a pack that is being made
_TEMPORARY = (PIXELS, "moments.part", "progress.jsonl", "images.kept", "moments.kept")
_DONE = {
    "grey": "were grey and became RGB",
    "palette": "had a palette and became RGB",
    "CMYK": "were CMYK and became RGB",
    "alpha": "lost their alpha channel",
    "other": "became RGB",
    "resized": "were resized",
}


def pack(
    dataset: Dataset,
    folder: str | Path,
    workers: int | None = None,
    progress: bool | str = True,
    chunk_bytes: int = CHUNK_BYTES,
    catalog: Catalog | None = None,
    form: Form | None = None,
) -> Pack:
    """Decode a dataset into a folder, or open the pack that is there.

    A killed run is taken up where it stopped, by running it again. One process at a time may pack into a folder; under
    torchrun, where that is rank 0, the other ranks help it while they wait (Store.get).

    Args:
        dataset: the images.
        folder: for the pack.
        workers: processes that decode; None: as many as this process's share of the machine's cores.
        progress: show how far it is, under that title where it is text.
        chunk_bytes: of the pixels that a process decodes at a time.
        catalog: the dataset's, or a part of it, where it is known.
        form: of the images, where it is known.

    Raises:
        UserError: naming an unusable image (unless dataset.on_error is "skip"), a changed one, the folder or the disk.
    """
    folder, catalog = Path(folder), dataset.catalog() if catalog is None else catalog
    source = source_of(dataset, catalog)
    if (current := _current(dataset, catalog, folder, source)) is not None:
        return current
    form = find_form(dataset, catalog) if form is None else form
    files = str(folder / PIXELS), str(folder / "moments.part")
    plan = Plan(catalog.reader, form, *files)
    key = sha256(json.dumps([PACK_VERSION, source, asdict(form), chunk_bytes]).encode())
    title = progress if isinstance(progress, str) else f"packing {dataset.name}" if progress else None
    shape, size = " x ".join(map(str, (*form.size, len(form.bands)))), len(catalog) * plan.image_bytes / 1e6
    log.info(f"packing {len(catalog):,} images of {catalog.root}: {shape} {form.dtype}, {size:,.0f} MB in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)
        chunks = plan.chunks(len(catalog), chunk_bytes)
        records, checksum = decode(plan, catalog, chunks, key, dataset.on_error == "skip", workers, title)
        catalog.refuse_changed()
        return _finish(dataset, catalog, plan, source, records, checksum)
    except OSError as error:
        if error.errno in NO_SPACE:
            _clean(folder)
        raise write_error(error, folder, "paths.store=DIR", len(catalog) * plan.image_bytes) from error


def source_of(dataset: Dataset, catalog: Catalog) -> str:
    """A hash of what the pack's content follows from: the files, and the fields of the config that shape it."""
    fields = ("classes", "bands", "select", "valid_range", "nodata", "native_size", "size", "gsd")
    shape = {f: getattr(dataset, f) for f in fields}
    return sha256(json.dumps([PACK_VERSION, catalog.listing(), shape], default=list).encode())


def _current(dataset: Dataset, catalog: Catalog, folder: Path, source: str) -> Pack | None:
    """The pack that is there, if it was made of this source and has no image that the dataset does not let be
    skipped.
    """
    try:
        packed = Pack.open(folder)
        packed.verify()  # the store has lost its record of it
    except (FileNotFoundError, NotADirectoryError, UserError):
        return None
    if packed.source != source:
        log.warning("%s changed since it was packed: packing it again", catalog.root)
        return None
    if packed.n_skipped and dataset.on_error == "raise":
        path, reason = next(iter(packed.skipped.items()))
        raise unusable(name_of(catalog.root, path), reason)
    with suppress(OSError):  # a store may be for reading only
        _clean(folder)  # a run may have been killed just before it did
    return packed


def _clean(folder: Path) -> None:
    for name in _TEMPORARY:
        (folder / name).unlink(missing_ok=True)


def _finish(dataset: Dataset, catalog: Catalog, plan: Plan, source: str, records: list[Record], checksum: str) -> Pack:
    """The pack, of the plan's files: without unusable images, with its card."""
    form, pixels, moments = plan.form, Path(plan.images), Path(plan.moments)
    bad = dict(pair for record in records for pair in record["bad"])
    outside = {i for record in records for i in record["outside"]}
    usable = [i for i in range(len(catalog)) if i not in bad and i not in outside]
    if outside:
        report_outside(catalog, outside)
    if not usable:
        raise unusable(catalog.name(min(bad)), bad[min(bad)])
    if bad or outside:
        shape, dtype = (len(catalog), *plan.shape), np.dtype(form.dtype)
        pixels = _compact(np.memmap(pixels, dtype, "r", shape=shape), usable, pixels.with_name("images.kept"))
        table = np.memmap(moments, np.float64, "r").reshape(-1, plan.shape[0], 3)
        moments = _compact(table, usable, moments.with_name("moments.kept"))
        checksum = sha256_of(pixels)
    done = sum((Counter(record["done"]) for record in records), Counter[str]())
    _report(dataset.name, catalog, bad, done)
    sums = moment_sums(np.fromfile(moments).reshape(-1, plan.shape[0], 3))
    mean, std = (tuple(values.tolist()) for values in mean_std(sums))
    for band, value in zip(form.bands, std, strict=True):
        if value == 1:
            log.warning("%s: band %s is constant; its std is recorded as 1", dataset.name, band)
    numbers = (form.dtype, form.low, form.high, form.nodata, mean, std)
    card = SensorCard(dataset.name, form.bands, *numbers, catalog.classes, form.size, dataset.gsd)
    ground = getattr(catalog, "ground", None)
    content = Content(
        pixels,
        checksum,
        moments,
        catalog.paths.select(np.array(usable)),
        catalog.labels[usable],
        ground and ground.rows(usable),
        {catalog.paths[i]: bad[i] for i in sorted(bad)},
    )
    about = {"sums": sums.tolist(), "source": source, "root": catalog.root, "done": dict(done)}
    made = write_pack(pixels.parent, card, content, about)
    _clean(pixels.parent)
    return made


def _report(name: str, catalog: Catalog, bad: dict[int, str], done: Counter[str]) -> None:
    """Says which images are left out, and how many were changed in which way."""
    if bad:
        first = min(bad)
        text = "%s: %d of %d images are left out, e.g. %s (%s)"
        log.warning(text, name, len(bad), len(catalog), catalog.paths[first], bad[first])
    if done:
        log.warning("%s: %s", name, ", ".join(f"{n} images {_DONE.get(w, w)}" for w, n in sorted(done.items())))


def _compact(rows: np.ndarray, usable: list[int], target: Path) -> Path:
    """A file of the rows of the usable images, without the holes of the others."""
    with open(target, "wb") as file:
        for i in range(0, len(usable), 256):
            file.write(np.ascontiguousarray(rows[usable[i : i + 256]]).data)
    return target
