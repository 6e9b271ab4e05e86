"""A dataset decoded once: `images.bin`, raw (N, C, H, W) in the source's own integer type, beside `card.json`.

    folder/images.bin    the pixels, memory-mapped
    folder/moments.npy   (N, C, 3) float64: valid pixels, sum, sum of squares of every image and band, in 0..1 units
    folder/ground.npz    of windows of scenes: where they lie
    folder/card.json     sensor card, paths, labels, images left out with reasons, checksums; written last

After the pack nothing needs GDAL or Pillow.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.catalog import Catalog
from rsssl.data.chunks import CHUNK_BYTES, Plan, mean_std
from rsssl.data.dataset import Dataset
from rsssl.data.decode import Record, decode, unusable
from rsssl.data.find_form import find_form
from rsssl.data.ground import Ground
from rsssl.data.scene_windows import report_outside
from rsssl.engine.files import NO_SPACE, sha256, sha256_of, sync, write_error
from rsssl.errors import UserError
from rsssl.models.card import SensorCard

log = logging.getLogger(__name__)

PACK_VERSION = 1  # of the layout above and of how images are brought into form: a change makes old packs stale
_TEMPORARY = ("images.part", "moments.part", "progress.jsonl", "images.kept", "moments.tmp", "card.tmp")
_DONE = {
    "grey": "were grey and became RGB",
    "palette": "had a palette and became RGB",
    "CMYK": "were CMYK and became RGB",
    "alpha": "lost their alpha channel",
    "other": "became RGB",
    "resized": "were resized",
}


@dataclass(frozen=True)
class Pack:
    """A finished pack of N images.

    Args:
        folder: where it lies.
        card: what the numbers in the pixels mean.
        images: np.memmap (N, C, H, W).
        labels: int64 (N,), -1 for an unlabelled image.
        paths: of the images, relative to the source.
        skipped: the reason for every image left out, by its path.
        done: how many images were converted or resized.
        moments: (N, C, 3) float64, see above.
        ground: where the images lie, of windows of scenes.
        fingerprint: sha256 of all content.
        source: the listing hash of the files that it was made from.
        root: the folder that they lay in.
        sha256: of `images.bin`.
    """

    folder: Path
    card: SensorCard
    images: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]
    skipped: dict[str, str]
    done: dict[str, int]
    moments: np.ndarray
    ground: Ground | None
    fingerprint: str
    source: str
    root: str
    sha256: str

    @property
    def checksums(self) -> dict[str, str]:
        """Of files, as they were written."""
        return {"images.bin": self.sha256}

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def open(cls, folder: str | Path) -> Pack:
        """Open a finished pack.

        Raises:
            FileNotFoundError: when there is none.
            UserError: when it is damaged.
        """
        folder = Path(folder)
        text = (folder / "card.json").read_text()
        try:
            meta = json.loads(text)
            card = SensorCard.from_dict(meta["card"])
            shape = (len(meta["paths"]), card.n_bands, *card.size)
            images = np.memmap(folder / "images.bin", np.dtype(card.dtype), "r", shape=shape)
            if images.nbytes != (folder / "images.bin").stat().st_size:
                raise ValueError(f"images.bin does not hold {images.nbytes} bytes")
            if meta["fingerprint"] != fingerprint_of(meta):
                raise ValueError("card.json is not what was written")
            fields = {key: meta[key] for key in ("skipped", "done", "fingerprint", "source", "root", "sha256")}
            labels, moments = np.array(meta["labels"], dtype=np.int64), np.load(folder / "moments.npy")
            ground = Ground.load(folder / "ground.npz") if (folder / "ground.npz").is_file() else None
            return cls(folder, card, images, labels, tuple(meta["paths"]), moments=moments, ground=ground, **fields)
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
            raise _damaged(folder, error) from error

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images as they are stored.

        They are read, in the file's order, and not mapped: pages of the memory map `images` that were touched once
        count as memory of this process.

        Args:
            rows: (n,) numbers of images.

        Returns:
            (n, C, H, W).

        Raises:
            OSError: when the file has become shorter.
        """
        out = np.empty((len(rows), *self.images.shape[1:]), self.images.dtype)
        size = out[:1].nbytes
        with open(self.folder / "images.bin", "rb", buffering=0) as file:
            for i in np.argsort(rows, kind="stable").tolist():
                if os.preadv(file.fileno(), [out[i].data], int(rows[i]) * size) != size:
                    raise OSError(errno.EIO, "the file has become shorter", file.name)
        return out

    def verify(self) -> None:
        """Compare the pixels with their checksum; UserError when they differ."""
        if sha256_of(self.folder / "images.bin") != self.sha256:
            raise _damaged(self.folder, "checksum")


def _damaged(folder: Path, reason: object) -> UserError:
    return UserError(f"The pack {folder} is damaged ({reason}). Remove it to have it made again: rm -r '{folder}'")


def fingerprint_of(meta: Mapping[str, Any]) -> str:
    """The hash of all content, from what card.json says."""
    return sha256(json.dumps([meta[k] for k in ("sha256", "card", "labels", "paths")]).encode())


def pack(
    dataset: Dataset,
    folder: str | Path,
    workers: int | None = None,
    progress: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
    catalog: Catalog | None = None,
) -> Pack:
    """Decode a dataset into a folder, or open the pack that is there.

    A killed run is taken up where it stopped, by running it again. One process at a time may pack into a folder; under
    torchrun, where that is rank 0, the other ranks help it while they wait (Store.get).

    Args:
        dataset: the images.
        folder: for the pack.
        workers: processes that decode; None: as many as this process's share of the machine's cores.
        progress: show how far it is.
        chunk_bytes: of the pixels that a process decodes at a time.
        catalog: the dataset's, where it is known.

    Raises:
        UserError: naming an unusable image (unless dataset.on_error is "skip"), a changed one, the folder or the disk.
    """
    folder, catalog = Path(folder), dataset.catalog() if catalog is None else catalog
    source = _source(dataset, catalog)
    if (current := _current(dataset, catalog, folder, source)) is not None:
        return current
    form = find_form(dataset, catalog)
    files = str(folder / "images.part"), str(folder / "moments.part")
    plan = Plan(str(catalog.root), catalog.paths, form, *files, getattr(catalog, "windows", None))
    key = sha256(json.dumps([PACK_VERSION, source, asdict(form), chunk_bytes]).encode())
    title = f"packing {dataset.name}" if progress else None
    shape, size = " x ".join(map(str, (*form.size, len(form.bands)))), len(catalog) * plan.image_bytes / 1e6
    log.info(f"packing {len(catalog):,} images of {catalog.root}: {shape} {form.dtype}, {size:,.0f} MB in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").unlink(missing_ok=True)
        records, checksum = decode(plan, plan.chunks(chunk_bytes), key, dataset.on_error == "skip", workers, title)
        catalog.refuse_changed()
        return _finish(dataset, catalog, plan, source, records, checksum)
    except OSError as error:
        if error.errno in NO_SPACE:
            _clean(folder)
        raise write_error(error, folder, "paths.store=DIR", len(catalog) * plan.image_bytes) from error


def _source(dataset: Dataset, catalog: Catalog) -> str:
    """A hash of what the pack's content follows from: the files, and the fields of the config that shape it."""
    fields = ("name", "classes", "bands", "select", "valid_range", "nodata", "native_size", "size", "gsd")
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
    if packed.skipped and dataset.on_error == "raise":
        path, reason = next(iter(packed.skipped.items()))
        raise unusable(catalog.root / path, reason)
    with suppress(OSError):  # a store may be for reading only
        _clean(folder)  # a run may have been killed just before it did
    return packed


def _clean(folder: Path) -> None:
    for name in _TEMPORARY:
        (folder / name).unlink(missing_ok=True)


def _finish(dataset: Dataset, catalog: Catalog, plan: Plan, source: str, records: list[Record], checksum: str) -> Pack:
    """The pack, of the plan's files: without unusable images, with its card."""
    name, form, pixels = dataset.name, plan.form, Path(plan.images)
    bad = dict(pair for record in records for pair in record["bad"])
    outside = {i for record in records for i in record["outside"]}
    usable = [i for i in range(len(plan.paths)) if i not in bad and i not in outside]
    if outside:
        report_outside(catalog, outside)
    if not usable:
        raise unusable(Path(plan.root, plan.paths[min(bad)]), bad[min(bad)])
    if bad or outside:
        pixels = _compact(plan, usable)
        checksum = sha256_of(pixels)
    if bad:
        first = min(bad)
        text = "%s: %d of %d images are left out, e.g. %s (%s)"
        log.warning(text, name, len(bad), len(plan.paths), plan.paths[first], bad[first])
    done = sum((Counter(record["done"]) for record in records), Counter[str]())
    if done:
        log.warning("%s: %s", name, ", ".join(f"{n} images {_DONE.get(w, w)}" for w, n in sorted(done.items())))
    moments = np.fromfile(plan.moments).reshape(-1, plan.shape[0], 3)[usable]
    mean, std = (tuple(values.tolist()) for values in mean_std(moments))
    for band, value in zip(form.bands, std, strict=True):
        if value == 1:
            log.warning("%s: band %s is constant; its std is recorded as 1", name, band)
    numbers = (form.dtype, form.low, form.high, form.nodata, mean, std)
    card = SensorCard(name, form.bands, *numbers, catalog.classes, form.size, dataset.gsd)
    meta: dict[str, Any] = {
        "card": card.to_dict(),
        "sha256": checksum,
        "source": source,
        "root": plan.root,
        "skipped": {plan.paths[i]: bad[i] for i in sorted(bad)},
        "done": done,
        "labels": catalog.labels[usable].tolist(),
        "paths": [plan.paths[i] for i in usable],
    }
    meta["fingerprint"] = fingerprint_of(meta)
    if ground := getattr(catalog, "ground", None):
        ground.rows(usable).save(pixels.with_name("ground.npz"))
    return _save(pixels, moments, meta)


def _compact(plan: Plan, usable: list[int]) -> Path:
    """A copy of the pixels of the usable images, without the holes of the others."""
    images = np.memmap(plan.images, np.dtype(plan.form.dtype), "r", shape=(len(plan.paths), *plan.shape))
    target = Path(plan.images).with_name("images.kept")
    with open(target, "wb") as file:
        for i in range(0, len(usable), 256):
            file.write(np.ascontiguousarray(images[usable[i : i + 256]]).data)
    return target


def _save(pixels: Path, moments: np.ndarray, meta: dict[str, Any]) -> Pack:
    """Gives the files their names, the card last."""
    folder = pixels.parent
    with open(folder / "moments.tmp", "wb") as file:
        np.save(file, moments)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in meta.items())  # indent= would take seconds
    (folder / "card.tmp").write_text("{" + lines + "}\n")
    for temporary, name in ((pixels.name, "images.bin"), ("moments.tmp", "moments.npy"), ("card.tmp", "card.json")):
        sync(folder / temporary)
        os.replace(folder / temporary, folder / name)
    sync(folder)
    _clean(folder)
    return Pack.open(folder)
