"""Made-up runs for the tests of reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix

CLASSES = ["Beach", "Dense_Residential", "River"]
PRETRAIN = {"artifact": "a" * 64, "dataset": "aid", "images": 600, "epochs": 10, "seconds": 1290.0, "reused": True}


def scores(accuracy: float, seed: int, classes: list[str] = CLASSES, per_class: int = 40) -> dict[str, Any]:
    """The entries of results.json for predictions that are right about as often as asked."""
    draw = np.random.default_rng(seed)
    true = np.repeat(np.arange(len(classes)), per_class)
    wrong = draw.integers(0, len(classes), len(true))
    predicted = np.where(draw.random(len(true)) < accuracy, true, wrong)
    matrix = confusion_matrix(true, predicted, labels=range(len(classes)))
    recall = matrix.diagonal() / matrix.sum(1)
    return {
        "oa": float((true == predicted).mean()),
        "aa": float(balanced_accuracy_score(true, predicted)),
        "kappa": float(cohen_kappa_score(true, predicted)),
        "per_class": dict(zip(classes, recall.tolist(), strict=True)),
        "confusion": matrix.tolist(),
    }


def write_run(folder: Path, **changes: Any) -> dict[str, Any]:
    """A results.json; `changes` replace its entries. Returns its content."""
    content = {
        "task": "pipeline",
        "dataset": "eurosat_rgb",
        "ssl": "simclr",
        "backbone": "resnet18",
        "evaluate": "linear",
        "ts": 5,
        "seed": 0,
        "protocol": "clean",
        "tta": False,
        "n_classes": 3,
        "n_train": 15,
        "n_test": 120,
        "pretrain": PRETRAIN,
        "baselines": {},
        "evaluation_seconds": 1.0,
        "versions": {},
        "config_hash": "c",
        "split_hash": "s" * 16,
        "finished": 1.7e9,
    }
    content |= {"oa": None}
    content |= changes
    if content["oa"] is None:
        content |= scores(0.6, 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    return content


def markdown_table(folder: Path) -> dict[str, dict[str, str]]:
    """report.md's table as {method: {heading: cell}}."""
    lines = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[rows[0].index("Method")]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
