"""`task=predict`: images in files in, a CSV of classes and probabilities out."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from rsssl.data.catalog import listing, scan
from rsssl.data.conform import Form, conform
from rsssl.data.raster import BadImage, read
from rsssl.engine.distributed import broadcast
from rsssl.engine.files import atomic, sha256_of, write_json
from rsssl.engine.loop import on_device, pick_device
from rsssl.engine.parts import Parts, alone_at
from rsssl.engine.ranks import rank
from rsssl.engine.store import digest
from rsssl.errors import UserError
from rsssl.geo.bands import choose
from rsssl.models.card import SensorCard
from rsssl.networks.classifier import SceneClassifier
from rsssl.networks.load import open_classifier

log = logging.getLogger(__name__)

PREDICT_VERSION = 1  # raised when a change of the code changes predictions
PART = 1024  # images whose predictions are kept together, in one file, until all are there
COLUMNS = ("path", "class", "probability")
ESCAPE = "surrogateescape"  # names of files are bytes, and not all of them are UTF-8


def run(cfg: DictConfig) -> None:
    """Writes `out`, a row an image in the order of the list, and beside it the list of images that could not be used.

    Does nothing when `out` is finished and would be the same.

    Raises:
        UserError: for a list, bands or a folder that do not do, or when no image can be used.
    """
    classifier = open_classifier(cfg.checkpoint)
    out = Path(cfg.out).expanduser()
    if out.suffix.lower() != ".csv":
        raise UserError(f"out={out} is not the name of a CSV: type out={out.with_suffix('.csv')}")
    root, paths = listed(Path(cfg.images).expanduser())
    bands = wanted_bands(classifier.card, None if cfg.bands is None else list(cfg.bands))
    device = pick_device(cfg.device)
    on_device(classifier, device)
    starts = range(0, len(paths), PART)
    inputs = {
        "version": PREDICT_VERSION,
        "classifier": classifier.fingerprint,
        "root": str(root),
        "listing": listing(root, paths),
        "tta": cfg.tta,
        "bands": bands,
        "precision": "bf16" if device.type == "cuda" else "fp32",
    }
    with alone_at(out):
        if broadcast(finished(out, inputs) if rank() == 0 else None):
            if rank() == 0:
                log.info("%s stands already: made of the same images with the same classifier", out)
            return
        parts = Parts(out, inputs, len(starts))
        todo = parts.missing()
        bar = tqdm(
            total=sum(len(paths[i * PART : (i + 1) * PART]) for i in todo),
            desc="predicting",
            unit="image",
            disable=None if rank() == 0 else True,
        )
        with bar, ThreadPoolExecutor(cfg.workers or min(4, os.cpu_count() or 1)) as pool:
            for i in todo:
                rows = predictions(classifier, root, paths[i * PART : (i + 1) * PART], bands, device, cfg, pool)
                text = io.StringIO(newline="")
                csv.writer(text, lineterminator="\n").writerows(counted(rows, bar))
                parts.write(i, text.getvalue().encode("utf-8", ESCAPE))
        parts.wait()
        if rank() == 0:
            joined = join(parts, out, classifier)
            parts.remove()
            if joined.unusable == len(paths):
                card = classifier.card
                raise UserError(
                    f"none of the {len(paths)} images of {cfg.images} can be used, as {unusable_file(out)} lists, for example "
                    f"{joined.example}. Type images=FOLDER with images as those of the training, {card.n_bands} bands of "
                    f"{card.dtype} ({', '.join(card.bands)}), or bands=[...] with the ones among theirs"
                )
            if not joined.unread:
                write_json(
                    done_file(out), {"key": digest(inputs), "unusable": joined.unusable, "sha256": sha256_of(out)}
                )
            print(f"\n{out}: {len(paths) - joined.unusable} images")
            if joined.unusable:
                print(f"  {joined.unusable} could not be used; they are listed in {unusable_file(out)}")


def done_file(out: Path) -> Path:
    return out.with_name(f".{out.name}.done.json")


def finished(out: Path, inputs: dict[str, Any]) -> bool:
    """Whether these very predictions stand, as they were written."""
    try:
        known = json.loads(done_file(out).read_text())
        key, unusable, sha256 = known["key"], known["unusable"], known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if key != digest(inputs) or not out.is_file() or bool(unusable) != unusable_file(out).is_file():
        return False
    return bool(sha256 == sha256_of(out))


def listed(source: Path) -> tuple[Path, list[str]]:
    """The root and the relative paths of the images: a folder's, or those that a text file or a CSV (column `path`) lists."""
    if source.is_dir():
        catalog = scan(source, [], hint="Type images=FOLDER or images=LIST.txt")
        return catalog.root, list(catalog.paths)
    if not source.is_file():
        raise UserError(
            f"images={source} is neither a folder nor a list of images: type images=FOLDER or images=LIST.txt"
        )
    with open(source, newline="", encoding="utf-8-sig", errors=ESCAPE) as file:  # spreadsheets begin files with a mark
        if source.suffix.lower() == ".csv":
            rows = csv.DictReader(file)
            if "path" not in (rows.fieldnames or []):
                raise UserError(
                    f"{source} has no column path, but {', '.join(rows.fieldnames or [])}: name the column of the "
                    "images path, or type images=FOLDER"
                )
            paths = [row["path"] for row in rows if row["path"]]
        else:
            paths = [line.strip() for line in file if line.strip()]
    if not paths:
        raise UserError(f"{source} lists no image: type images=FOLDER or images=LIST.txt, a path a line")
    return source.parent, paths


def wanted_bands(card: SensorCard, bands: list[Any] | None) -> list[Any] | None:
    """`bands` as typed, a number (from 1) or a name for each of the classifier's."""
    if bands is not None and (len(bands) != card.n_bands or any(isinstance(b, int) and b < 1 for b in bands)):
        raise UserError(
            f"bands={bands}: the classifier was trained on {card.n_bands} bands ({', '.join(card.bands)}): "
            "type bands=[...] with the number of each in the images, from 1, or its name there"
        )
    return bands


def predictions(
    classifier: SceneClassifier,
    root: Path,
    paths: list[str],
    bands: list[Any] | None,
    device: torch.device,
    cfg: DictConfig,
    pool: ThreadPoolExecutor,
) -> Iterator[list[str]]:
    """A row for each path; one that cannot be used has an empty class and the reason."""
    reading = partial_results(pool, root, paths, classifier.card, bands, ahead=2 * cfg.batch_size)
    for start in range(0, len(paths), cfg.batch_size):
        names = paths[start : start + cfg.batch_size]
        images = [next(reading) for _ in names]
        good = [i for i, image in enumerate(images) if not isinstance(image, str)]
        found = np.zeros((0, len(classifier.classes)), np.float32)
        if good:
            x = torch.from_numpy(np.stack([images[i] for i in good])).to(device)
            with torch.inference_mode():
                found = classifier.standardised(classifier.preprocess(x), cfg.tta).float().cpu().numpy()
        rows = dict(zip(good, found, strict=True))
        for i, name in enumerate(names):
            if i in rows:
                best = int(rows[i].argmax())
                yield [name, classifier.classes[best], f"{rows[i][best]:.4f}", *(f"{p:.4f}" for p in rows[i])]
            else:
                yield [name, "", str(images[i])]


def partial_results(
    pool: ThreadPoolExecutor, root: Path, paths: list[str], card: SensorCard, bands: list[Any] | None, ahead: int
) -> Iterator[np.ndarray | str]:
    """Images (C, H, W) in the order of the paths, read by the pool's threads no more than `ahead` early; reasons for bad ones."""
    queue = []
    one = partial(read_one, card=card, bands=bands)
    for path in paths:
        queue.append(pool.submit(one, root / path))
        if len(queue) > ahead:
            yield queue.pop(0).result()
    for future in queue:
        yield future.result()


def read_one(path: Path, card: SensorCard, bands: list[Any] | None) -> np.ndarray | str:
    """The image in the form of the training's, its bands chosen as `task=map` does, or why it cannot be."""
    form = Form(
        card.bands, card.n_bands, tuple(range(card.n_bands)), card.dtype, card.size, card.nodata, card.low, card.high
    )
    try:
        raster = read(path, card.n_bands if bands is None else None)
        names = raster.names or ("",) * len(raster.pixels)
        try:
            keep = tuple(b - 1 for b in choose(names, card, bands, path))
        except UserError:
            return refusal(names, card, bands)
        return conform(path, replace(form, in_file=len(names), keep=keep), raster)[0]
    except BadImage as error:
        return error.reason


def refusal(names: Sequence[str], card: SensorCard, bands: list[Any] | None) -> str:
    """What `choose` says of a scene, short enough for a list."""
    listed = textwrap.shorten(", ".join(names), 100, placeholder=" ...") if any(names) else "unnamed"
    found = f"it has {len(names)} bands"
    if bands is not None:
        return f"{found} ({listed}), not all of bands={bands}: type bands=[...] with numbers or names of those it has"
    found += f" ({listed})" if len(names) == card.n_bands else ""
    return (
        f"{found}, expected {card.n_bands} ({', '.join(card.bands)}): type bands=[...] with the number or name of each"
    )


def counted(rows: Iterator[list[str]], bar: tqdm) -> Iterator[list[str]]:
    for row in rows:
        bar.update()
        yield row


def unusable_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}_unusable.csv")


@contextmanager
def table(path: Path, head: list[str]) -> Iterator[Any]:
    """The writer of a CSV that is whole or absent."""
    with atomic(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors=ESCAPE, newline="", write_through=True)
        try:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(head)
            yield writer
        finally:
            text.detach()  # the file is closed by who opened it


class Joined(NamedTuple):
    """unusable: how many images; example: the first of them and why; unread: whether one of them may be readable next time."""

    unusable: int
    example: str
    unread: bool


def join(parts: Parts, out: Path, classifier: SceneClassifier) -> Joined:
    """Puts the parts together; writes no predictions when there are none."""
    good = unusable = 0
    example, unread = "", False
    with table(unusable_file(out), ["path", "reason"]) as bad:
        for row in made(parts):
            if row[1]:
                good += 1
                continue
            bad.writerow([row[0], row[2]])
            example = example or f"{row[0]}: {row[2]}"
            unread |= row[2].startswith("cannot be read")
            unusable += 1
    if not unusable:
        unusable_file(out).unlink()
    if good:
        with table(out, [*COLUMNS, *classifier.classes]) as predicted:
            predicted.writerows(row for row in made(parts) if row[1])
    return Joined(unusable, example, unread)


def made(parts: Parts) -> Iterator[list[str]]:
    """The rows of `predictions`, of all parts."""
    for i in range(parts.n):
        yield from csv.reader(io.StringIO(parts.path(i).read_bytes().decode("utf-8", ESCAPE), newline=""))
