"""Probes on frozen features: of a network's weights, and of nothing but each band's statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl.engine.ranks import rank
from rsssl.evaluation.features import FEATURES_VERSION, FeatureBank, Weights, feature_bank
from rsssl.evaluation.heads import Head, Probe
from rsssl.evaluation.job import Job
from rsssl.evaluation.paper import paper_probe
from rsssl.evaluation.statistics import image_statistics

SYMMETRIES = 8  # flips and quarter turns


def frozen(job: Job, probe: Probe, weights: Weights) -> tuple[dict[str, Any], Head | None]:
    """A probe on the frozen features of `weights`: its figures, and on rank 0 the fitted head."""
    symmetries = range(SYMMETRIES if job.tta else 1)
    banks = [feature_bank(job.store, job.data.pack, weights, job.device, s) for s in symmetries]
    return fitted(job, probe, banks)


def statistics(job: Job, probe: Probe) -> dict[str, Any]:
    """The same probe on nothing but each band's mean, standard deviation, minimum and maximum."""
    pack = job.data.pack
    inputs = {"version": FEATURES_VERSION, "weights": "image statistics", "pixels": pack.fingerprint}

    def extract(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(image_statistics(pack.images[rows], pack.card))

    bank = FeatureBank(job.store.folder("features", inputs), len(pack.images), extract, "image statistics")
    return fitted(job, probe, [bank])[0]


def fitted(job: Job, probe: Probe, banks: list[FeatureBank]) -> tuple[dict[str, Any], Head | None]:
    """Fits the probe to the labelled features and tests it; probabilities are averaged over the banks' symmetries."""
    x, y = banks[0].get(job.train), job.labels(job.train)
    tests = [bank.get(job.test) for bank in banks]
    more = {"pool": banks[0].get(np.setdiff1d(job.data.split.pool, job.train))} if probe.uses_pool else {}
    if rank() > 0 and not probe.divided:
        return {}, None
    if job.protocol == "paper" and probe.paper_head:
        return paper_probe(job, x, y, tests)
    probe.fit(x, y, job.n_classes, job.seed, **more)
    several = len(tests) > 1
    scores = torch.stack([probe.probabilities(t) for t in tests]).mean(0) if several else probe.scores(tests[0])
    return job.figures(scores.argmax(1)) | {"details": probe.details}, probe.head() if rank() == 0 else None
