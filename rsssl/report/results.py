"""Reads results.json files: each becomes one `Result` for its own numbers and one for each baseline beside them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

METRICS = ("oa", "aa", "kappa")
BASELINES = {"random_init": "random init", "image_statistics": "image statistics"}
REQUIRED = (
    "dataset",
    "ssl",
    "backbone",
    "evaluate",
    "ts",
    "seed",
    "protocol",
    "n_classes",
    "n_train",
    "n_test",
    "split_hash",
    *METRICS,
    "per_class",
    "confusion",
)


class Row(NamedTuple):
    """What makes one row of the table: results that differ only in ts and seed share it."""

    dataset: str
    protocol: str
    evaluate: str
    tta: bool
    baseline: bool
    backbone: str  # "" for image statistics, which have none
    method: str
    pretrain_dataset: str = ""
    pretrain_images: int = 0
    pretrain_epochs: int = 0
    artifact: str = ""


@dataclass(frozen=True)
class Result:
    """The scores of one row at one train scale and one seed; fractions in 0..1 (kappa -1..1, or nan)."""

    row: Row
    ts: int | float | str
    seed: int
    scores: dict[str, float]
    classes: tuple[str, ...]
    confusion: list[list[int]]  # (classes, classes): rows are the true classes
    n_train: int
    n_test: int
    split_hash: str
    config_hash: str
    finished: float  # unix time
    pretrain_seconds: float | None
    path: Path

    @property
    def labels_per_class(self) -> float:
        """Labelled images per class, also where `ts` is a fraction or "all" (then the mean over the classes)."""
        return self.ts if isinstance(self.ts, int) else self.n_train / len(self.classes)


def ts_order(ts: str) -> tuple[int, float]:
    """Sort key of a train scale written as text: labels per class, then fractions, then "all"."""
    return (2, 0.0) if ts == "all" else (1, float(ts)) if "." in ts or "e" in ts else (0, float(ts))


def find(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """results.json files under the folders, each once, and warnings: folders not readable, runs without results."""
    found: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    warnings: list[str] = []
    for folder in folders:
        refused: list[OSError] = []
        for where, subfolders, files in os.walk(folder, onerror=refused.append):
            subfolders.sort()
            here = Path(where)
            if "results.json" in files:
                found.setdefault((here / "results.json").resolve(), here / "results.json")
            elif ".hydra" in subfolders:
                unfinished.setdefault(here.resolve(), here)
        warnings += [f"{error.filename} cannot be read ({error.strerror}); skipped" for error in refused]
    if unfinished:
        some = ", ".join(map(str, list(unfinished.values())[:5])) + (", ..." if len(unfinished) > 5 else "")
        warnings.append(f"runs without results.json (unfinished, failed, or another task): {len(unfinished)}, {some}")
    return list(found.values()), warnings


def read(path: Path) -> tuple[list[Result], list[str]]:
    """The results of one file, the run's own first, and warnings about baselines left out.

    Raises:
        ValueError: saying what is wrong with the file; the caller names it.
    """
    try:
        content = json.loads(path.read_bytes())
        modified = path.stat().st_mtime
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # bad UTF-8 included
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("holds no JSON object")
    if "oa" not in content and content.get("task") in ("pack", "pretrain"):
        raise ValueError(f"is of task={content['task']}, which has no scores")
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    own = result(content, path, modified)
    results, warnings = [own], []
    for key, entry in (content.get("baselines") or {}).items():
        if entry is None:
            continue
        try:
            results.append(baseline(own, key, entry))
        except ValueError as error:
            warnings.append(f"{path}: the baseline {key} {error}; left out")
    return results, warnings


def result(content: dict[str, Any], path: Path, modified: float) -> Result:
    """Checks one file's content and gives it types. Raises ValueError as `read` does."""
    ts, pretrain = content["ts"], content.get("pretrain") or {}
    whole = isinstance(ts, int) and not isinstance(ts, bool) and ts >= 1
    if not (whole or ts == "all" or (isinstance(ts, float) and 0 < ts <= 1)):
        raise ValueError(f"has ts={ts!r}, which is no train scale (5, 0.1 or all)")
    for key in ("seed", "n_train", "n_test", "n_classes"):
        if not isinstance(content[key], int) or isinstance(content[key], bool):
            raise ValueError(f"has {key}={content[key]!r}, not a whole number")
    if not isinstance(pretrain, dict):
        raise ValueError(f"has pretrain={pretrain!r}, not an object or null")
    source = pretrain.get("dataset") or ""
    row = Row(
        dataset=str(content["dataset"]),
        protocol=str(content["protocol"]),
        evaluate=str(content["evaluate"]),
        tta=bool(content.get("tta", False)),
        baseline=False,
        backbone=str(content["backbone"]),
        method=str(content["ssl"] or "none"),
        pretrain_dataset="+".join(map(str, source)) if isinstance(source, list) else str(source),
        pretrain_images=int(pretrain.get("images") or 0),
        pretrain_epochs=int(pretrain.get("epochs") or 0),
        artifact=str(pretrain.get("artifact") or ""),
    )
    classes, confusion = matrix(content, None)
    if len(classes) != content["n_classes"]:
        raise ValueError(f"has n_classes={content['n_classes']} and {len(classes)} classes in per_class")
    seconds = pretrain.get("seconds")
    return Result(
        row=row,
        ts=ts,
        seed=content["seed"],
        scores=checked_scores(content),
        classes=classes,
        confusion=confusion,
        n_train=content["n_train"],
        n_test=content["n_test"],
        split_hash=str(content["split_hash"]),
        config_hash=str(content.get("config_hash", "")),
        finished=float(content.get("finished") or modified),
        pretrain_seconds=float(seconds) if seconds else None,
        path=path,
    )


def baseline(own: Result, key: str, entry: Any) -> Result:
    """The result of a baseline that a run measured beside itself: same labels, same test images."""
    missing = [k for k in METRICS if k not in entry] if isinstance(entry, dict) else ["all scores"]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    # Beside a network trained whole the baselines are still judged by a linear probe on frozen features.
    judged = "linear" if own.row.evaluate in ("finetune", "scratch") else own.row.evaluate
    row = Row(
        own.row.dataset,
        own.row.protocol,
        str(entry.get("evaluate", judged)),
        own.row.tta,
        baseline=True,
        backbone="" if key == "image_statistics" else own.row.backbone,
        method=BASELINES.get(key, key.replace("_", " ")),
    )
    confusion = matrix(entry, own.classes)[1] if "confusion" in entry else []
    # The run's settings are not the baseline's: without the hash, two runs' equal baselines are not told apart.
    changes = {
        "row": row,
        "scores": checked_scores(entry),
        "confusion": confusion,
        "config_hash": "",
        "pretrain_seconds": None,
    }
    return Result(**{**vars(own), **changes})


def checked_scores(entry: dict[str, Any]) -> dict[str, float]:
    """oa, aa and kappa as floats; kappa may be null or NaN (chance alone agrees fully)."""
    scores = {}
    for name in METRICS:
        value = entry[name]
        if value is None and name == "kappa":
            value = math.nan
        lowest = -1.0 if name == "kappa" else 0.0
        good = isinstance(value, int | float) and (lowest <= value <= 1 or (name == "kappa" and math.isnan(value)))
        if not good:
            raise ValueError(f"has {name}={value!r}, outside {lowest:g}..1")
        scores[name] = float(value)
    return scores


def matrix(entry: dict[str, Any], classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[list[int]]]:
    """Class names (keys of per_class, in order) and the square confusion matrix that goes with them."""
    if classes is None:
        if not isinstance(entry["per_class"], dict) or not entry["per_class"]:
            raise ValueError("has a per_class that is not {class: recall}")
        classes = tuple(map(str, entry["per_class"]))
    rows, n = entry["confusion"], len(classes)
    square = isinstance(rows, list) and len(rows) == n and all(isinstance(r, list) and len(r) == n for r in rows)
    if not square or not all(isinstance(count, int | float) and count >= 0 for r in rows for count in r):
        raise ValueError(f"has a confusion that is not {n} x {n} counts")
    return classes, rows
