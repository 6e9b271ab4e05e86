"""`task=predict`: images in files in, a CSV of classes and probabilities out."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from rsssl.data.catalog import listing, scan
from rsssl.data.conform import Form, conform
from rsssl.data.raster import BadImage
from rsssl.engine.files import atomic
from rsssl.engine.loop import autocast, on_device, pick_device
from rsssl.engine.parts import Parts, alone_at
from rsssl.engine.ranks import rank
from rsssl.errors import UserError
from rsssl.evaluation.classifier import SceneClassifier
from rsssl.models.card import SensorCard
from rsssl.tasks.weights import open_classifier

log = logging.getLogger(__name__)

PART = 1024  # images whose predictions are kept together, in one file, until all are there
COLUMNS = ("path", "class", "probability")


def run(cfg: DictConfig) -> None:
    """Writes `out`, a row an image in the order of the list, and beside it the list of images that could not be used."""
    classifier = open_classifier(cfg.checkpoint)
    out = Path(cfg.out).expanduser()
    if out.suffix.lower() != ".csv":
        raise UserError(f"out={out} is not the name of a CSV: type out={out.with_suffix('.csv')}")
    root, paths = listed(Path(cfg.images).expanduser())
    form = wanted_form(classifier.card, cfg.bands)
    device = pick_device(cfg.device)
    on_device(classifier, device)
    starts = range(0, len(paths), PART)
    with alone_at(out):
        inputs = {"classifier": classifier.fingerprint, "root": str(root), "listing": listing(root, paths), "tta": cfg.tta,
                  "bands": list(form.keep), "batch": cfg.batch_size}  # fmt: skip
        parts = Parts(out, inputs, len(starts))
        todo = parts.missing()
        bar = tqdm(total=sum(len(paths[i * PART : (i + 1) * PART]) for i in todo), desc="predicting", unit="image",
                   disable=None if rank() == 0 else True)  # fmt: skip
        with bar, ThreadPoolExecutor(cfg.workers or min(4, os.cpu_count() or 1)) as pool:
            for i in todo:
                rows = predictions(classifier, root, paths[i * PART : (i + 1) * PART], form, device, cfg, pool)
                text = io.StringIO(newline="")
                csv.writer(text, lineterminator="\n").writerows(counted(rows, bar))
                parts.write(i, text.getvalue().encode())
        parts.wait()
        if rank() == 0:
            unusable = join(parts, out, classifier)
            parts.remove()
            print(f"\n{out}: {len(paths) - unusable} images")
            if unusable:
                print(f"  {unusable} could not be used; they are listed in {unusable_file(out)}")


def listed(source: Path) -> tuple[Path, list[str]]:
    """The root and the relative paths of the images: a folder's, or those that a text file or a CSV (column `path`) lists."""
    if source.is_dir():
        catalog = scan(source, [], hint="Type images=FOLDER or images=LIST.txt")
        return catalog.root, list(catalog.paths)
    if not source.is_file():
        raise UserError(f"images={source} is neither a folder nor a list of images: type images=FOLDER or images=LIST.txt")
    with open(source, newline="") as file:
        if source.suffix.lower() == ".csv":
            rows = csv.DictReader(file)
            if "path" not in (rows.fieldnames or []):
                raise UserError(f"{source} has no column path, but {', '.join(rows.fieldnames or [])}: name the column of the "
                                "images path, or type images=FOLDER")  # fmt: skip
            paths = [row["path"] for row in rows if row["path"]]
        else:
            paths = [line.strip() for line in file if line.strip()]
    if not paths:
        raise UserError(f"{source} lists no image: type images=FOLDER or images=LIST.txt, a path a line")
    return source.parent, paths


def wanted_form(card: SensorCard, bands: list[int] | None) -> Form:
    """The form of the training's images; with `bands`, of images that have others too (their numbers, from 1)."""
    keep = tuple(range(card.n_bands))
    if bands is not None:
        if len(bands) != card.n_bands or not all(isinstance(b, int) and b > 0 for b in bands):
            raise UserError(f"bands={list(bands)}: the classifier was trained on {card.n_bands} bands ({', '.join(card.bands)}): "
                            "type bands=[...] with the number of each in the images, from 1")  # fmt: skip
        keep = tuple(b - 1 for b in bands)
    return Form(card.bands, card.n_bands, keep, card.dtype, card.size, card.nodata, card.low, card.high)


def predictions(
    classifier: SceneClassifier, root: Path, paths: list[str], form: Form, device: torch.device, cfg: DictConfig,
    pool: ThreadPoolExecutor,
) -> Iterator[list[str]]:  # fmt: skip
    """A row for each path; one that cannot be used has an empty class and the reason."""
    reading = iter(partial_results(pool, root, paths, form, any_bands=cfg.bands is not None, ahead=2 * cfg.batch_size))
    for start in range(0, len(paths), cfg.batch_size):
        names = paths[start : start + cfg.batch_size]
        images = [next(reading) for _ in names]
        good = [i for i, image in enumerate(images) if not isinstance(image, str)]
        found = np.zeros((0, len(classifier.classes)), np.float32)
        if good:
            x = torch.from_numpy(np.stack([images[i] for i in good])).to(device)
            with torch.inference_mode(), autocast(device):
                found = classifier.standardised(classifier.preprocess(x), cfg.tta).float().cpu().numpy()
        rows = dict(zip(good, found, strict=True))
        for i, name in enumerate(names):
            if i in rows:
                best = int(rows[i].argmax())
                yield [name, classifier.classes[best], f"{rows[i][best]:.4f}", *(f"{p:.4f}" for p in rows[i])]
            else:
                yield [name, "", str(images[i])]


def partial_results(
    pool: ThreadPoolExecutor, root: Path, paths: list[str], form: Form, any_bands: bool, ahead: int
) -> Iterator[np.ndarray | str]:
    """Images (C, H, W) in the order of the paths, read by the pool's threads no more than `ahead` early; reasons for bad ones."""
    queue = []
    one = partial(read_one, form=form, any_bands=any_bands)
    for path in paths:
        queue.append(pool.submit(one, root / path))
        if len(queue) > ahead:
            yield queue.pop(0).result()
    for future in queue:
        yield future.result()


def read_one(path: Path, form: Form, any_bands: bool) -> np.ndarray | str:
    """The image in the form of the training's, or why it cannot be."""
    try:
        return conform(path, form, any_bands)[0]
    except BadImage as error:
        return error.reason


def counted(rows: Iterator[list[str]], bar: tqdm) -> Iterator[list[str]]:
    for row in rows:
        bar.update()
        yield row


def unusable_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}_unusable.csv")


def join(parts: Parts, out: Path, classifier: SceneClassifier) -> int:
    """Puts the parts together; how many images could not be used."""
    unusable = 0
    with atomic(unusable_file(out)) as bad, atomic(out) as file:
        good_text, bad_text = (io.TextIOWrapper(f, newline="", write_through=True) for f in (file, bad))
        good_rows, bad_rows = (csv.writer(t, lineterminator="\n") for t in (good_text, bad_text))
        good_rows.writerow([*COLUMNS, *classifier.classes])
        bad_rows.writerow(["path", "reason"])
        for i in range(parts.n):
            for row in csv.reader(io.StringIO(parts.path(i).read_bytes().decode(), newline="")):
                if row[1]:
                    good_rows.writerow(row)
                else:
                    bad_rows.writerow([row[0], row[2]])
                    unusable += 1
        good_text.detach(), bad_text.detach()
    if not unusable:
        unusable_file(out).unlink()
    return unusable
