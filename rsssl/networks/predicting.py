"""Images in files in, a CSV of classes and probabilities out."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rsssl.data.catalog import listing
from rsssl.data.lists import ESCAPE
from rsssl.engine.device import on_device, precision, sent
from rsssl.engine.files import atomic
from rsssl.engine.outputs import Output, Parts, read_record
from rsssl.engine.progress import Progress
from rsssl.engine.ranks import rank
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.networks.images import listed, place_of, read_one, wanted_bands, with_places
from rsssl.networks.network import SceneNetwork

log = logging.getLogger(__name__)

PREDICT_VERSION = 3  # raised when a change of the code changes predictions
PART = 1024  # images whose predictions are kept together, in one file, until all are there
COLUMNS = ("path", "class", "probability")
PLACE = ("lon", "lat")  # further columns, in degrees, of images that say where they lie


@dataclass(frozen=True)
class PredictOptions:
    """How images are predicted.

    Args:
        bands: of the images for each of the classifier's, numbers from 1 or names; None to find them by name.
        batch_size: images classified at a time.
        tta: average over the eight flips and quarter turns.
        workers: threads that read images; None for up to four.
    """

    bands: list[Any] | None
    batch_size: int | None
    tta: bool
    workers: int | None


def predict_files(
    classifier: SceneNetwork, source: Path, out: Path, options: PredictOptions, device: torch.device, config: Any
) -> dict[str, Any]:
    """Writes `out`, a row an image in the order of the list, and beside it the list of images that could not be used.

    Does nothing when `out` is finished and would be the same. Under torchrun all ranks call it together.

    Args:
        classifier: with its head.
        source: a folder of images, or a list of them (a path a line, or a CSV with a column path).
        out: the CSV.
        options: which bands, how many at a time.
        device: where it computes.
        config: for the record.

    Returns:
        {"images": those predicted, "unusable": those that could not be used, "reused": whether they stood already}.

    Raises:
        UserError: for a list, bands or a folder that cannot be used, or when no image can be.
    """
    root, paths = listed(source)
    classifier = on_device(classifier.folded(), device)
    bands, at_once = wanted_bands(classifier.card, options.bands), classifier.at_once(options.batch_size)
    options = replace(options, bands=bands, batch_size=at_once)
    inputs = {
        "version": PREDICT_VERSION,
        "classifier": classifier.fingerprint,
        "root": str(root),
        "listing": listing(root, paths),
        "tta": options.tta,
        "bands": bands,
        "precision": precision(device),
    }
    placed = place_of(str(root / paths[0])) is not None
    output = Output(out, inputs)
    with output.alone():
        if output.finished({"predictions": out}):
            known: dict[str, Any] = read_record(out)["counts"]
            if bool(known["unusable"]) == unusable_file(out).is_file():
                return known | {"reused": True}
        log.info(f"{source}: the classes of {len(paths):,} images to {out}")
        parts = output.parts(-(-len(paths) // PART))
        make_parts(parts, classifier, root, paths, options, device, placed)
        if rank() > 0:
            return {}
        joined = join(parts, out, [*COLUMNS, *classifier.classes, *(PLACE if placed else ())])
        parts.remove()
        if joined.unusable == len(paths):
            card = classifier.card
            raise UserError(
                f"none of the {len(paths)} images of {source} can be used, as {unusable_file(out)} lists, for example "
                f"{joined.example}. Type images=FOLDER with images as those of the training, {card.n_bands} bands of "
                f"{card.dtype} ({', '.join(card.bands)}), or bands=[...] with the ones among theirs"
            )
        counts = {"images": len(paths) - joined.unusable, "unusable": joined.unusable}
        if not joined.unread:  # else the same command looks at them again
            output.finish({"predictions": out}, {"counts": counts, "config": config})
        return counts | {"reused": False}


def make_parts(
    parts: Parts,
    classifier: SceneNetwork,
    root: Path,
    paths: list[str],
    options: PredictOptions,
    device: torch.device,
    placed: bool,
) -> None:
    """Predicts what is missing, PART images at a time: this rank's share of it; with the place of each if `placed`."""
    todo = parts.missing()
    total = sum(len(paths[i * PART : (i + 1) * PART]) for i in todo)
    with (
        Progress("predicting", total, "images") as progress,
        ThreadPoolExecutor(options.workers or min(4, os.cpu_count() or 1)) as pool,
    ):
        for i in todo:
            names = paths[i * PART : (i + 1) * PART]
            images = read_ahead(pool, root, names, classifier.card, options.bands, ahead=2 * (options.batch_size or 1))
            text = io.StringIO(newline="")
            rows = predictions(classifier, names, images, device, options)
            if placed:
                rows = with_places(rows, list(pool.map(lambda name: place_of(str(root / name)), names)))
            csv.writer(text, lineterminator="\n").writerows(counted(rows, progress))
            parts.write(i, text.getvalue().encode("utf-8", ESCAPE))
    parts.wait()


def predictions(
    classifier: SceneNetwork,
    names: list[str],
    images: Iterator[np.ndarray | str],
    device: torch.device,
    options: PredictOptions,
) -> Iterator[list[str]]:
    """A row for each image; one that cannot be used has an empty class and the reason."""
    together = options.batch_size or len(names)  # the number has been worked out
    for start in range(0, len(names), together):
        batch = [(name, next(images)) for name in names[start : start + together]]
        good = [image for _, image in batch if not isinstance(image, str)]
        shares: Iterator[np.ndarray] = iter(())
        if good:
            x = sent(torch.from_numpy(np.stack(good)), device)
            with torch.inference_mode():
                shares = iter(classifier.standardised(classifier.input(x), options.tta).float().cpu().numpy())
        for name, image in batch:
            if isinstance(image, str):
                yield [name, "", image]
                continue
            row = next(shares)
            best = int(row.argmax())
            yield [name, classifier.classes[best], f"{row[best]:.4f}", *(f"{p:.4f}" for p in row)]


def read_ahead(
    pool: ThreadPoolExecutor, root: Path, paths: list[str], card: SensorCard, bands: list[Any] | None, ahead: int
) -> Iterator[np.ndarray | str]:
    """Images (C, H, W) in the order of the paths, read by the pool's threads no more than `ahead` early; reasons for
    bad ones."""
    queue = []
    one = partial(read_one, card=card, bands=bands)
    for path in paths:
        queue.append(pool.submit(one, root / path))
        if len(queue) > ahead:
            yield queue.pop(0).result()
    for future in queue:
        yield future.result()


def counted(rows: Iterator[list[str]], progress: Progress) -> Iterator[list[str]]:
    for row in rows:
        progress.update()
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
    """unusable: how many images; example: the first of them and why; unread: whether one of them may be readable next
    time."""

    unusable: int
    example: str
    unread: bool


def join(parts: Parts, out: Path, columns: list[str]) -> Joined:
    """Puts the parts together, under these columns; writes no predictions when there are none."""
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
        with table(out, columns) as predicted:
            predicted.writerows(row for row in made(parts) if row[1])
    return Joined(unusable, example, unread)


def made(parts: Parts) -> Iterator[list[str]]:
    """The rows of `predictions`, of all parts."""
    for i in range(parts.n):
        yield from csv.reader(io.StringIO(parts.path(i).read_bytes().decode("utf-8", ESCAPE), newline=""))
