"""`task=suggest`: which unlabelled tiles to label next, as a CSV and a contact sheet."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from rsssl.data.loader import stored
from rsssl.data.prepared import Data, load
from rsssl.engine.files import write_atomic
from rsssl.engine.loop import autocast, on_device, pick_device
from rsssl.engine.ranks import rank
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.features import FeatureBank
from rsssl.evaluation.suggest import coverage, margin, refuse_too_many, typicality
from rsssl.models.card import SensorCard
from rsssl.networks.classifier import SceneClassifier
from rsssl.networks.load import open_classifier
from rsssl.networks.sensor import differences
from rsssl.report.contact_sheet import contact_sheet
from rsssl.tasks.common import plain, run_folder, save_config
from rsssl.tasks.evaluate import FEATURES_VERSION, Job, feature_bank
from rsssl.tasks.weights import find_checkpoint, resolve

BLOCK = 4096  # features whose classes are asked for at a time


def run(cfg: DictConfig) -> None:
    """Writes `out` (the run folder's suggest.csv when nothing is said), a row a tile and the most useful first, with its contact
    sheet beside it. Tiles of the fixed test set are never suggested."""
    store = Store(cfg.paths.store)
    classifier = open_classifier(cfg.checkpoint) if cfg.suggest.by == "margin" else None
    if cfg.checkpoint and classifier is None:
        find_checkpoint(cfg.checkpoint, store)  # a wrong path is said before any data is read
    out = Path(cfg.out).expanduser() if cfg.out else None
    if out is not None and out.suffix.lower() != ".csv":
        raise UserError(f"out={out} is not the name of a CSV: type out={out.with_suffix('.csv')}")
    data = load(plain(cfg.dataset), store, cfg.workers, cfg.protocol)
    pool, names = data.split.pool, typed_paths(data)
    known = np.zeros(len(data.pack), bool)
    if cfg.suggest.labelled:
        known[read_labelled(Path(cfg.suggest.labelled).expanduser(), names, str(cfg.dataset.root))] = True
    known = known[pool]
    free = int((~known).sum())
    refuse_too_many(cfg.suggest.n, free)
    job = Job(cfg, data, store, pick_device(cfg.device), pool, data.split.test)
    weights = None
    if classifier is None:
        weights = resolve(cfg, store, data)
        features = feature_bank(job, weights, 0).get(pool)
    else:
        features = classifier_bank(job, classifier).get(pool)
    if rank() > 0:
        return
    columns: dict[str, list[str]] = {}
    covered = torch.from_numpy(np.flatnonzero(known))
    if classifier is not None:
        found = probabilities(classifier, features)
        choice = margin(found, features, cfg.suggest.n, cfg.seed, covered)
        best = found[choice.rows].max(1)
        columns = {
            "class": [classifier.classes[i] for i in best.indices.tolist()],
            "probability": [f"{p:.4f}" for p in best.values.tolist()],
        }
    elif cfg.suggest.by == "coverage":
        choice = coverage(features, cfg.suggest.n, covered)
    else:
        choice = typicality(features, cfg.suggest.n, cfg.seed, covered)
    rows = pool[choice.rows.numpy()]
    out = out or run_folder() / "suggest.csv"
    save_config(cfg, run_folder())
    write_table(out, [names[i] for i in rows], choice.score, columns)
    title = f"{len(rows)} tiles of {data.pack.card.name} to label next, by {cfg.suggest.by}"
    notes = [
        [
            Path(names[row]).name if not columns else f"{columns['class'][i]} {columns['probability'][i]}",
            *([Path(names[row]).name] if columns else []),
        ]
        for i, row in enumerate(rows)
    ]
    pages = contact_sheet(data.pack, rows, notes, title, out.with_suffix(".png"))
    print(f"\n{title}: from {free} without a label" + (f" ({int(known.sum())} have one)" if known.any() else ""))
    if len(data.split.test):
        print(
            f"  left alone: the {len(data.split.test)} of the fixed test set (dataset.classes=[] for tiles without classes)"
        )
    print(f"  {out}\n  {pages[0]}" + (f" and {len(pages) - 1} more pages" if len(pages) > 1 else ""))
    print_next(cfg, str(weights.record["folder"]) if weights and weights.record else cfg.checkpoint)


def typed_paths(data: Data) -> list[str]:
    """Every tile's path relative to dataset.root as it was typed: folders may lie between it and the class folders."""
    if not data.dataset.root:
        return list(data.pack.paths)
    between = os.path.relpath(data.dataset.catalog().root, Path(data.dataset.root).expanduser().resolve())
    return list(data.pack.paths) if between == "." else [f"{Path(between).as_posix()}/{p}" for p in data.pack.paths]


def read_labelled(file: Path, names: list[str], root: str) -> list[int]:
    """The rows of a pack that a CSV lists in its column `path`.

    Raises:
        UserError: no such file or column, or a path that is not a tile of the dataset.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")  # spreadsheets begin files with a mark
    except OSError as error:
        raise UserError(
            f"suggest.labelled={file} cannot be read ({error.strerror}): type suggest.labelled=FILE.csv with a column path"
        ) from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    if "path" not in (table.fieldnames or []):
        raise UserError(
            f"suggest.labelled={file} has no column path, but {', '.join(table.fieldnames or ['nothing'])}: name the column of "
            "the tiles path, as suggest.csv does"
        )
    row_of = {name: i for i, name in enumerate(names)}
    rows = []
    for line in table:
        if not (path := (line["path"] or "").strip()):
            continue
        if (row := row_of.get(os.path.normpath(path).replace(os.sep, "/"))) is None:
            raise UserError(
                f"suggest.labelled={file} line {table.line_num} names {path}, which is not a tile of {root}: its paths are "
                f"relative to dataset.root, for example {names[0]}"
            )
        rows.append(row)
    return rows


def classifier_bank(job: Job, classifier: SceneClassifier) -> FeatureBank:
    """The features that the classifier's head takes, of images preprocessed as it was trained.

    Raises:
        UserError: when it was trained on another sensor than the dataset's.
    """
    pack = job.data.pack
    refuse_other_sensor(classifier.card, pack.card, job.cfg.checkpoint)
    on_device(classifier, job.device)

    @torch.inference_mode()
    def extract(rows: np.ndarray) -> Tensor:
        with autocast(job.device):
            return classifier.backbone(classifier.preprocess(stored(pack, rows, job.device)))

    inputs = {
        "version": FEATURES_VERSION,
        "classifier": classifier.fingerprint,
        "pixels": pack.fingerprint,
        "precision": "bf16" if job.device.type == "cuda" else "fp32",
    }
    return FeatureBank(job.store.folder("features", inputs), len(pack), extract)


def refuse_other_sensor(own: SensorCard, card: SensorCard, checkpoint: str) -> None:
    """Stops where a dataset's images are not such as the classifier was trained on."""
    found = differences(own, card)
    if not found:
        return
    typed_keys = []
    if [b.lower() for b in own.bands] != [b.lower() for b in card.bands]:
        typed_keys.append(f"'dataset.select=[{','.join(own.bands)}]'")
    elif (own.low, own.high) != (card.low, card.high):
        pairs = ",".join(f"[{low!r},{high!r}]" for low, high in zip(own.low, own.high, strict=True))
        typed_keys.append(f"'dataset.valid_range=[{pairs}]' where the numbers mean the same")
    raise UserError(
        f"{typed('checkpoint', checkpoint)} was trained on other images than those of {card.name}: {'; '.join(found)}. Type "
        + " or ".join([*typed_keys, "another checkpoint=DIR"])
    )


@torch.inference_mode()
def probabilities(classifier: SceneClassifier, features: Tensor) -> Tensor:
    """Features (N, D) -> class probabilities (N, K), on the CPU."""
    head = classifier.head.cpu()
    return torch.cat([head(block) for block in features.split(BLOCK)])


def write_table(file: Path, paths: list[str], score: Tensor, columns: dict[str, list[str]]) -> None:
    """A row a tile: rank from 1, path, score, and the other columns."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "path", "score", *columns])
    for i, (path, value) in enumerate(zip(paths, score.tolist(), strict=True)):
        writer.writerow([i + 1, path, f"{value:.6g}", *(c[i] for c in columns.values())])
    write_atomic(file, text.getvalue().encode(errors="surrogateescape"))


def print_next(cfg: DictConfig, checkpoint: str | None) -> None:
    """What to do with the list."""
    given = typed("checkpoint", checkpoint) if checkpoint else "ssl=none"
    dataset = f"dataset={cfg.dataset.name} {typed('dataset.root', cfg.dataset.root)}"
    print(
        "  next: copy these tiles into folders named by their class, LABELLED/<class>/, and type\n"
        f"    rsssl-run task=evaluate dataset=folder dataset.root=LABELLED {given} ts=all\n"
        "  to go on after that, list all that are labelled, of this round and those before, in one CSV and type\n"
        f"    rsssl-run task=suggest {dataset} {given} suggest.labelled=ALL_LABELLED.csv"
    )


def typed(key: str, value: object) -> str:
    """key=value as it has to be typed: quoted for Hydra, and that for the shell, where the value is not plain."""
    text = str(value)
    if re.fullmatch(r"[\w./+@%:-]+", text, re.ASCII):
        return f"{key}={text}"
    text = re.sub(
        r"(\\*)(\"|$)", lambda m: 2 * m[1] + ('\\"' if m[2] else ""), text
    )  # Hydra escapes only what ends a quote
    return shlex.quote(f'{key}="{text}"')
