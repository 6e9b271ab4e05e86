"""A dataset decoded once: `images.bin`, raw (N, C, H, W) in the source's own integer type, beside `card.json`.

    folder/images.bin    the pixels, memory-mapped
    folder/moments.npy   (N, C, 3) float64: valid pixels, sum, sum of squares of every image and band, in 0..1 units
    folder/card.json     sensor card, paths, labels, images left out with reasons, checksums; written last

After the pack nothing needs GDAL or Pillow.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.catalog import Catalog, source_listing
from rsssl.data.chunks import Digest, Plan, read_progress
from rsssl.data.conform import find_form
from rsssl.data.dataset import Dataset
from rsssl.data.disk import flushing
from rsssl.data.parallel import run_chunks, run_on_all_ranks
from rsssl.engine.files import sha256_of, sync
from rsssl.engine.ranks import world_size
from rsssl.errors import UserError
from rsssl.models.card import SensorCard

log = logging.getLogger(__name__)

PACK_VERSION = 1  # of the layout above and of how images are brought into form: a change makes old packs stale


@dataclass(frozen=True)
class Pack:
    """A finished pack. images: np.memmap (N, C, H, W); labels int64 (N,), -1 unlabelled; paths relative to the source.

    skipped: path -> reason of every image left out. done: how many images were converted or resized.
    fingerprint: sha256 of all content. source: the listing hash of the files it was made from.
    """

    folder: Path
    card: SensorCard
    images: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]
    skipped: dict[str, str]
    done: dict[str, int]
    moments: np.ndarray
    fingerprint: str
    source: str
    sha256: str

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def open(cls, folder: str | Path) -> Pack:
        """Open a finished pack; FileNotFoundError when there is none, UserError when it is damaged."""
        folder = Path(folder)
        text = (folder / "card.json").read_text()
        try:
            meta = json.loads(text)
            card = SensorCard.from_dict(meta["card"])
            shape = (len(meta["paths"]), card.n_bands, *card.size)
            images = np.memmap(folder / "images.bin", np.dtype(card.dtype), "r", shape=shape)
            if images.nbytes != (folder / "images.bin").stat().st_size:
                raise ValueError(f"images.bin does not hold {images.nbytes} bytes")
            labels = np.array(meta["labels"], dtype=np.int64)
            return cls(
                folder,
                card,
                images,
                labels,
                tuple(meta["paths"]),
                meta["skipped"],
                meta["done"],
                np.load(folder / "moments.npy"),
                meta["fingerprint"],
                meta["source"],
                meta["sha256"],
            )
        except (ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
            raise UserError(
                f"The pack {folder} is damaged ({error}). Remove it to have it made again: rm -r '{folder}'"
            ) from error

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of `rows` (n,) as stored, (n, C, H, W), read from the file in its order.

        Plain reads: pages of the memory map `images`, once touched, count as this process's memory, these do not.
        OSError when the file has become shorter.
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
            raise UserError(
                f"The pack {self.folder} is damaged (checksum). Remove it to have it made again: rm -r '{self.folder}'"
            )


def mean_std(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std, float64 (C,) each, of the valid pixels of images with these moments (N, C, 3), in 0..1 units.

    The images may be a part of a pack, or come from several. The std of a constant band is 1.
    """
    count, total, squares = moments.sum(axis=0).T
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return mean, np.where(std > 1e-7, std, 1.0)


def pack(dataset: Dataset, folder: str | Path, workers: int | None = None, progress: bool = True) -> Pack:
    """Decode `dataset` into `folder`, on `workers` processes (None: all cores), or open the one that is there.

    A killed run is taken up where it stopped, by running it again. One process at a time may pack into a folder; under
    torchrun, where that is rank 0, the other ranks help it while they wait (Store.get).
    Raises UserError naming the first unusable image (unless dataset.on_error is "skip"), a folder that cannot be
    written, or a full disk.
    """
    folder = Path(folder)
    catalog = dataset.catalog()
    source = _source(dataset, catalog)
    try:
        old = Pack.open(folder)
    except (FileNotFoundError, NotADirectoryError, UserError):
        pass
    else:
        if old.source == source:
            if old.skipped and dataset.on_error == "raise":
                path, reason = next(iter(old.skipped.items()))
                raise _unusable(catalog.root / path, reason)
            with suppress(OSError):  # a store may be for reading only
                _clean(folder)  # a run may have been killed just before it did
            return old
        log.warning("%s changed since it was packed: packing it again", catalog.root)
    form = find_form(dataset, catalog)
    plan = Plan(str(catalog.root), catalog.paths, form, str(folder / "images.part"), str(folder / "moments.part"))
    plan_hash = hashlib.sha256(json.dumps([PACK_VERSION, source, asdict(form)]).encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").unlink(missing_ok=True)
        records, sha256 = _decode(dataset, plan, plan_hash, folder, workers or _cores(), progress)
        return _finish(dataset, catalog, plan, records, sha256, folder, source)
    except OSError as error:
        raise _explain(error, folder, len(catalog) * plan.image_bytes) from error


def _source(dataset: Dataset, catalog: Catalog) -> str:
    """What the pack's content follows from: the files, and the fields of the config that shape it."""
    fields = ("name", "classes", "bands", "select", "valid_range", "nodata", "native_size", "size", "gsd")
    shape = {f: getattr(dataset, f) for f in fields}
    text = json.dumps([PACK_VERSION, source_listing(catalog), shape], default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def _cores() -> int:
    """For this process: its share of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _decode(
    dataset: Dataset, plan: Plan, plan_hash: str, folder: Path, workers: int, progress: bool
) -> tuple[list[dict[str, Any]], str]:
    """The chunks' records, and the sha256 of the pixels' file."""
    from tqdm import tqdm

    journal = folder / "progress.jsonl"
    part = Path(plan.images)
    same = part.is_file() and part.stat().st_size == len(plan.paths) * plan.image_bytes
    records = read_progress(plan, journal, plan_hash) if same else []
    if not records:
        for file in (part, Path(plan.moments), journal):
            file.unlink(missing_ok=True)
        _allocate(part, len(plan.paths) * plan.image_bytes)
        _allocate(Path(plan.moments), len(plan.paths) * plan.shape[0] * 24)
    journal.write_text("\n".join([plan_hash, *map(json.dumps, records)]) + "\n")
    if records:
        log.info("taking up the packing of %s: %d chunks are done", plan.root, len(records))
    done = {(r["start"], r["stop"]) for r in records}
    todo = [c for c in plan.chunks() if c not in done]
    n_done = sum(b - a for a, b in done)
    bar = tqdm(
        total=len(plan.paths),
        initial=n_done,
        unit="image",
        desc=f"packing {dataset.name}",
        disable=not progress,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )
    digest = Digest(plan)
    for record in records:
        _refuse(dataset, plan, record)
        digest.add(record["start"], record["stop"])
    run = run_on_all_ranks if world_size() > 1 else run_chunks
    with bar, open(journal, "a") as log_file, flushing(part), closing(run(plan, todo, workers)) as results:
        for record in results:
            log_file.write(json.dumps(record) + "\n")
            log_file.flush()
            records.append(record)
            bar.update(record["stop"] - record["start"])
            _refuse(dataset, plan, record)
            digest.add(record["start"], record["stop"])
    return records, digest.hexdigest()


def _allocate(path: Path, size: int) -> None:
    """Claim the disk space now, so that a full disk is known before the work and not after it."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _refuse(dataset: Dataset, plan: Plan, record: dict[str, Any]) -> None:
    if record["bad"] and dataset.on_error == "raise":
        i = min(record["bad"])
        raise _unusable(Path(plan.root, plan.paths[i]), record["bad"][i])


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be used: {reason}. Repair or remove it, or leave such files out (they are counted "
        "and listed): dataset.on_error=skip"
    )


def _finish(
    dataset: Dataset,
    catalog: Catalog,
    plan: Plan,
    records: list[dict[str, Any]],
    sha256: str,
    folder: Path,
    source: str,
) -> Pack:
    bad = {i: reason for record in records for i, reason in record["bad"].items()}
    done: dict[str, int] = {}
    for record in records:
        for what, n in record["done"].items():
            done[what] = done.get(what, 0) + n
    kept = [i for i in range(len(plan.paths)) if i not in bad]
    if not kept:
        raise _unusable(Path(plan.root, plan.paths[0]), bad[0])
    part = Path(plan.images)
    if bad:
        part = _compact(plan, kept, folder / "images.kept")
        sha256 = sha256_of(part)
        log.warning(
            "%s: %d of %d images are left out, e.g. %s (%s)",
            dataset.name,
            len(bad),
            len(plan.paths),
            plan.paths[min(bad)],
            bad[min(bad)],
        )
    if done:
        log.warning("%s: %s", dataset.name, ", ".join(f"{n} images {_DONE.get(w, w)}" for w, n in sorted(done.items())))
    moments = np.fromfile(plan.moments).reshape(-1, plan.shape[0], 3)[kept]
    mean, std = mean_std(moments)
    for band, total, squares, count in zip(plan.form.bands, *moments.sum(axis=0).T[[1, 2, 0]], strict=True):
        if squares / max(count, 1) - (total / max(count, 1)) ** 2 < 1e-14:
            log.warning("%s: band %s is constant; its std is recorded as 1", dataset.name, band)
    form = plan.form
    card = SensorCard(
        dataset.name,
        form.bands,
        form.dtype,
        form.low,
        form.high,
        form.nodata,
        tuple(mean.tolist()),
        tuple(std.tolist()),
        catalog.classes,
        form.size,
        dataset.gsd,
    )
    meta: dict[str, Any] = {
        "card": card.to_dict(),
        "sha256": sha256,
        "source": source,
        "root": plan.root,
        "skipped": {plan.paths[i]: bad[i] for i in sorted(bad)},
        "done": done,
        "labels": catalog.labels[kept].tolist(),
        "paths": [plan.paths[i] for i in kept],
    }
    content = [meta[k] for k in ("sha256", "card", "labels", "paths")]
    meta["fingerprint"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with open(folder / "moments.tmp", "wb") as file:
        np.save(file, moments)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in meta.items())  # indent= would take seconds
    (folder / "card.tmp").write_text("{" + lines + "}\n")
    for tmp, name in ((part.name, "images.bin"), ("moments.tmp", "moments.npy"), ("card.tmp", "card.json")):
        sync(folder / tmp)
        os.replace(folder / tmp, folder / name)
    sync(folder)
    _clean(folder)
    return Pack.open(folder)


def _clean(folder: Path) -> None:
    for name in ("images.part", "moments.part", "progress.jsonl", "images.kept", "moments.tmp", "card.tmp"):
        (folder / name).unlink(missing_ok=True)


_DONE = {
    "grey": "were grey and became RGB",
    "palette": "had a palette and became RGB",
    "CMYK": "were CMYK and became RGB",
    "alpha": "lost their alpha channel",
    "other": "became RGB",
    "resized": "were resized",
}


def _compact(plan: Plan, kept: list[int], target: Path) -> Path:
    """Copy the usable images, without the holes of the others."""
    shape = (len(plan.paths), *plan.shape)
    images = np.memmap(plan.images, np.dtype(plan.form.dtype), "r", shape=shape)
    with open(target, "wb") as file:
        for i in range(0, len(kept), 256):
            file.write(np.ascontiguousarray(images[kept[i : i + 256]]).data)
    return target


def _explain(error: OSError, folder: Path, needed: int) -> UserError:
    there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    advice = "Type paths.store=FOLDER with another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        _clean(folder)
        free = shutil.disk_usage(there).free
        return UserError(
            f"No room for the pack in {folder}: it takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB "
            f"are free ({error.strerror}). Free some and run it again. {advice}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return UserError(
            f"The pack cannot be written to {folder} ({error.strerror}). Check the permissions: "
            f"ls -ld '{there}'. {advice}"
        )
    return UserError(f"The pack could not be written to {folder}: {error}. {advice}")
