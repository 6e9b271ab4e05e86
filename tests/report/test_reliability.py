"""The reliability diagram and the figures of calibration in the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rsssl.evaluation.metrics import calibration
from rsssl.report.command import report
from rsssl.report.reliability import bins
from rsssl.report.results import read


def write(folder: Path, seed: int, ts: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + ts)
    truth = rng.integers(0, 2, 60)
    p = rng.uniform(0.3, 1, 60)
    shares = np.stack([np.where(truth == 0, p, 1 - p), np.where(truth == 0, 1 - p, p)], 1)
    predicted = shares.argmax(1)
    matrix = np.bincount(truth * 2 + predicted, minlength=4).reshape(2, 2)
    oa = float((predicted == truth).mean())
    trust = calibration(shares, truth)
    scores = {"oa": oa, "aa": oa, "kappa": 2 * oa - 1}
    content = {
        **{"task": "pipeline", "dataset": "made", "ssl": "vicreg", "start": "imagenet", "backbone": "net"},
        **{"evaluate": "auto", "ts": ts, "seed": seed, "protocol": "clean", "n_classes": 2, "n_train": 2 * ts},
        **{"n_test": 60, "split_hash": "x", "per_class": {"a": oa, "b": oa}, "confusion": matrix.tolist()},
        **{"baselines": {}, "calibration": trust | {"before": {"ece": 0.3, "brier": 0.5, "nll": 1.0}}},
        **{"parts": {"linear": {k: v - 0.02 for k, v in scores.items()}, "ridge": scores}},
        **scores,
    }
    place = folder / f"{ts}-{seed}"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(content))
    return shares, truth


def test_bins_of_all_seeds_together_are_those_of_all_their_images(tmp_path: Path) -> None:
    both = [write(tmp_path, seed, 5) for seed in (0, 1)]
    results = [read(tmp_path / f"5-{seed}" / "results.json")[0][0] for seed in (0, 1)]
    shares, truth = (np.concatenate(each) for each in zip(*both, strict=True))
    whole = calibration(shares, truth)["bins"]
    count, confidence, accuracy = bins(results)
    assert count.tolist() == whole["count"]
    for found, key in ((confidence, "confidence"), (accuracy, "accuracy")):
        assert found / 100 == pytest.approx([v or 0 for v in whole[key]])


def test_the_report_draws_it_and_lists_the_numbers_and_the_linear_part(tmp_path: Path, capsys) -> None:
    for ts in (5, 20):
        for seed in (0, 1):
            write(tmp_path, seed, ts)
    paths = {p.name: p for p in report([tmp_path], "oa", tmp_path)}
    assert paths["reliability_made.png"].read_bytes().startswith(b"\x89PNG")
    assert "(reliability_made.png)" in paths["report.md"].read_text()
    shown = capsys.readouterr().out
    assert "auto" in shown and "linear" in shown and "ridge" not in shown
    with open(paths["report_summary.csv"]) as file:
        rows = [r for r in csv.DictReader(file) if r["evaluate"] == "auto" and r["ts"] == "5"]
    assert {r["metric"] for r in rows} >= {"oa", "ece", "nll_before", "brier"}
    old = json.loads((tmp_path / "5-0" / "results.json").read_text())
    del old["calibration"], old["parts"]
    (tmp_path / "5-0" / "results.json").write_text(json.dumps(old))
    report([tmp_path], "oa", tmp_path)  # beside results of an earlier version
