"""Reads results.json files: each becomes one `Result` for its own numbers and one for each baseline beside them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

METRICS = ("oa", "aa", "kappa")
TRUST = ("ece", "brier", "nll")
BASELINES = {"random_init": "random init", "image_statistics": "image statistics"}
WHOLE_NUMBERS = ("seed", "n_train", "n_test", "n_classes")
SETTINGS = ("dataset", "ssl", "backbone", "evaluate", "ts", "seed", "protocol")
REQUIRED = (*SETTINGS, "n_classes", "n_train", "n_test", "split_hash", *METRICS, "per_class", "confusion")


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
    start: str = ""


@dataclass(frozen=True)
class Result:
    """The scores of one row at one train scale and one seed; fractions in 0..1 (kappa -1..1, or nan)."""

    row: Row
    ts: str
    labels_per_class: float  # also where `ts` is a fraction or "all": then the mean over the classes
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
    trust: dict[str, float]  # "ece", "brier", "nll", "chance", "ece_before" and so on; empty in older results
    bins: dict[str, list[Any]]  # of the reliability diagram
    split: str = "at random"  # how test and training images were divided
    too_good: float | None = None  # overall accuracy with a random split, where it was another
    content: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # of the file, as it was read
    part: bool = False  # of a classifier that is put together; its own run, where there is one, says more


def ts_order(ts: str) -> tuple[int, float]:
    """Sort key of a train scale written as text: labels per class, then fractions, then "all"."""
    return (2, 0.0) if ts == "all" else (1, float(ts)) if "." in ts or "e" in ts else (0, float(ts))


def find(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """results.json files under the folders, each once, and warnings: folders not readable, runs without results."""
    files: dict[Path, Path] = {}  # by the place that links lead to
    unfinished: dict[Path, Path] = {}
    unreadable: list[OSError] = []
    for folder in folders:
        for place, subfolders, names in os.walk(folder, onerror=unreadable.append):
            subfolders.sort()
            here = Path(place)
            if "results.json" in names:
                files.setdefault((here / "results.json").resolve(), here / "results.json")
            elif ".hydra" in subfolders:
                unfinished.setdefault(here.resolve(), here)
    warnings = [f"{error.filename} cannot be read ({error.strerror}); skipped" for error in unreadable]
    if unfinished:
        some = ", ".join(map(str, list(unfinished.values())[:5])) + (", ..." if len(unfinished) > 5 else "")
        warnings.append(f"runs without results.json (unfinished, failed, or another task): {len(unfinished)}, {some}")
    return list(files.values()), warnings


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
    need(content, REQUIRED)
    results, warnings = [result(content, path, modified)], []
    if "linear" in (content.get("parts") or {}):  # the baselines' probe on the same features
        results.append(part(results[0], "linear", content["parts"]["linear"]))
    for key, entry in (content.get("baselines") or {}).items():
        if entry is None:
            continue
        try:
            results.append(baseline(results[0], key, entry))
        except ValueError as error:
            warnings.append(f"{path}: the baseline {key} {error}; left out")
    return results, warnings


def method_of(ssl: str, start: str, evaluate: str) -> str:
    """A row's name: the signal that the backbone was trained by, and what it was before; what is seen without one."""
    if evaluate == "statistics":
        return BASELINES["image_statistics"]
    if start == "random":
        return ssl
    return f"{start}, frozen" if ssl == "none" else f"{ssl} from {start}"


def need(entry: dict[str, Any], keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")


def result(content: dict[str, Any], path: Path, modified: float) -> Result:
    """Checks one file's content and gives it types. Raises ValueError as `read` does."""
    ts, pretrain = content["ts"], content.get("pretrain") or {}
    whole = type(ts) is int and ts >= 1  # not True
    if not (whole or ts == "all" or (isinstance(ts, float) and 0 < ts <= 1)):
        raise ValueError(f"has ts={ts!r}, which is no train scale (5, 0.1 or all)")
    for key in WHOLE_NUMBERS:
        if type(content[key]) is not int:
            raise ValueError(f"has {key}={content[key]!r}, not a whole number")
    if not isinstance(pretrain, dict):
        raise ValueError(f"has pretrain={pretrain!r}, not an object or null")
    source, seconds = pretrain.get("dataset") or "", pretrain.get("seconds")
    texts: dict[str, Any] = {key: str(content[key]) for key in ("dataset", "protocol", "evaluate", "backbone")}
    row = Row(
        **texts,
        tta=bool(content.get("tta", False)),
        baseline=False,
        method=method_of(str(content["ssl"] or "none"), str(content.get("start") or "random"), texts["evaluate"]),
        start=str(content.get("start") or "random"),
        pretrain_dataset="+".join(map(str, source)) if isinstance(source, list) else str(source),
        pretrain_images=int(pretrain.get("images") or 0),
        pretrain_epochs=int(pretrain.get("epochs") or 0),
        artifact=str(pretrain.get("artifact") or ""),
    )
    if not isinstance(content["per_class"], dict) or not content["per_class"]:
        raise ValueError("has a per_class that is not {class: recall}")
    classes = tuple(map(str, content["per_class"]))
    confusion = checked_confusion(content, len(classes))
    if len(classes) != content["n_classes"]:
        raise ValueError(f"has n_classes={content['n_classes']} and {len(classes)} classes in per_class")
    numbers = {key: content[key] for key in ("seed", "n_train", "n_test")}
    return Result(
        **numbers,
        row=row,
        ts=str(ts),
        labels_per_class=ts if whole else content["n_train"] / len(classes),
        scores=checked_scores(content),
        classes=classes,
        confusion=confusion,
        split_hash=str(content["split_hash"]),
        config_hash=str(content.get("config_hash", "")),
        finished=float(content.get("finished") or modified),
        pretrain_seconds=float(seconds) if seconds else None,
        path=path,
        split=str(content.get("split", "at random")),
        too_good=(content.get("random_split") or {}).get("oa"),
        content=content,
        **checked_trust(content),
    )


def part(run: Result, name: str, entry: Any) -> Result:
    """The result of one of the classifiers that a run put together."""
    need(entry, METRICS)
    row = run.row._replace(evaluate=name)
    scores = checked_scores(entry)
    return dataclasses.replace(run, row=row, scores=scores, confusion=[], trust={}, bins={}, part=True)


def baseline(run: Result, key: str, entry: Any) -> Result:
    """The result of a baseline that a run measured beside itself: same labels, same test images."""
    if not isinstance(entry, dict):
        raise ValueError("lacks all scores")
    need(entry, METRICS)
    # Baselines say by which probe they were judged, where it is another; older results do not.
    probe = "linear" if run.row.evaluate in ("finetune", "scratch") else run.row.evaluate
    row = Row(
        *run.row[:2],  # dataset, protocol
        evaluate=str(entry.get("evaluate", probe)),
        tta=run.row.tta,
        baseline=True,
        backbone="" if key == "image_statistics" else run.row.backbone,
        method=f"{run.row.start}, frozen" if key == "frozen_start" else BASELINES.get(key, key.replace("_", " ")),
    )
    confusion = checked_confusion(entry, len(run.classes)) if "confusion" in entry else []
    result = dataclasses.replace(run, row=row, scores=checked_scores(entry), confusion=confusion)
    # The run's settings are not the baseline's: with their hash, equal baselines of two runs would count as different.
    return dataclasses.replace(result, config_hash="", pretrain_seconds=None, **checked_trust(entry))


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


def checked_trust(entry: dict[str, Any]) -> dict[str, Any]:
    """The calibration as the fields `trust` and `bins`, both empty where there is none."""
    found = entry.get("calibration")
    if not found:
        return {"trust": {}, "bins": {}}
    trust = {name: float(found[name]) for name in (*TRUST, "chance")}
    trust |= {f"{name}_before": float(value) for name, value in found.get("before", {}).items()}
    return {"trust": trust, "bins": found["bins"]}


def checked_confusion(entry: dict[str, Any], n: int) -> list[list[int]]:
    """The confusion matrix, if it is n lists of n counts."""
    rows = entry["confusion"]
    square = isinstance(rows, list) and len(rows) == n and all(isinstance(r, list) and len(r) == n for r in rows)
    if not square or not all(isinstance(count, int | float) and count >= 0 for r in rows for count in r):
        raise ValueError(f"has a confusion that is not {n} x {n} counts")
    return rows
