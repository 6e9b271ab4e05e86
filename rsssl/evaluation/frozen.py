"""Probes on frozen features: of a network's weights, and of nothing but each band's statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.engine.ranks import rank
from rsssl.evaluation.base import Probe
from rsssl.evaluation.combined import Combined
from rsssl.evaluation.features import FEATURES_VERSION, FeatureBank, Weights, feature_bank
from rsssl.evaluation.heads import Head, in_blocks
from rsssl.evaluation.job import Job
from rsssl.evaluation.outlook import outlook
from rsssl.evaluation.paper import paper_probe
from rsssl.evaluation.statistics import image_statistics

SYMMETRIES = 8  # flips and quarter turns


def frozen(job: Job, probe: Probe, weights: Weights, ahead: bool = False) -> tuple[dict[str, Any], Head | None]:
    """A probe on the frozen features of `weights`: its figures, and on rank 0 the fitted head. Looking `ahead`, the
    figures say too what more labels would bring."""
    symmetries = range(SYMMETRIES if job.tta else 1)
    banks = [feature_bank(job.store, job.data.pack, weights, job.device, s) for s in symmetries]
    return fitted(job, probe, banks, ahead)


def statistics(job: Job, probe: Probe) -> dict[str, Any]:
    """The same probe on nothing but each band's mean, standard deviation, minimum and maximum."""
    pack = job.data.pack
    inputs = {"version": FEATURES_VERSION, "weights": "image statistics", "pixels": pack.fingerprint}

    def extract(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(image_statistics(pack.images[rows], pack.card))

    bank = FeatureBank(job.store.folder("features", inputs), len(pack.images), extract, "image statistics")
    return fitted(job, probe, [bank])[0]


def fitted(job: Job, probe: Probe, banks: list[FeatureBank], ahead: bool = False) -> tuple[dict[str, Any], Head | None]:
    """Fits the probe to the labelled features and tests it; probabilities are averaged over the banks' symmetries."""
    combined = Combined.of(probe)
    x, y = banks[0].get(job.train), job.labels(job.train)
    tests = [bank.get(job.test) for bank in banks]
    more = {"pool": banks[0].get(pool_rows(job, combined.pool_images))} if combined.pool_images else {}
    if rank() > 0 and not combined.divided:
        return {}, None
    if job.protocol == "paper" and combined.paper_head:
        return paper_probe(job, x, y, tests)
    combined.fit(x, y, job.n_classes, job.seed, **more)

    def tested(head: Head) -> Tensor:
        shares = [in_blocks(head, t, head.compared, combined.divided) for t in tests]
        return torch.stack(shares).mean(0) if len(shares) > 1 else shares[0]

    probabilities, head = tested(combined.head()), combined.head()
    figures = job.figures(probabilities.argmax(1)) | {"details": combined.details}
    before = {k: v for k, v in job.trust(tested(combined.plain)).items() if k in ("ece", "brier", "nll")}
    figures["calibration"] = job.trust(probabilities) | {"before": before}
    if combined.heads:
        found = {name: job.figures(tested(h).argmax(1)) for name, h in combined.heads.items()}
        figures["parts"] = {name: {k: f[k] for k in ("oa", "aa", "kappa")} for name, f in found.items()}
    if ahead and rank() == 0:
        figures["outlook"] = outlook(combined, x, y, job.n_classes, job.seed, figures["oa"], len(job.test))
    return figures, head if rank() == 0 else None


def soft_labels(job: Job, probe: Probe, weights: Weights, images: int) -> tuple[np.ndarray, Tensor]:
    """Rows (N,) of the pool without a label, and on rank 0 what the probe thinks they are (N, n_classes)."""
    combined, rows = Combined.of(probe), pool_rows(job, images)
    bank = feature_bank(job.store, job.data.pack, weights, job.device)
    x, pool = bank.get(job.train), bank.get(rows)
    if rank() > 0:
        return rows, torch.empty(0)
    seen = {"pool": bank.get(pool_rows(job, combined.pool_images))} if combined.pool_images else {}
    combined.fit(x, job.labels(job.train), job.n_classes, job.seed, **seen)
    return rows, in_blocks(combined.head(), pool, combined.head().compared, divided=False)


def pool_rows(job: Job, images: int) -> np.ndarray:
    """The pool's rows that have no label in this job, of so many images that are the same for every job."""
    pool = job.data.split.pool
    order = rng.permutation(rng.fold("unlabelled", job.data.split.hash), len(pool))
    return np.setdiff1d(pool[order[:images]], job.train)
