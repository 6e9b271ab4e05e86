"""Probes on frozen features: of a network's weights, and of nothing but each band's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl import rng
from rsssl.engine.ranks import rank
from rsssl.errors import UserError
from rsssl.evaluation.base import Probe
from rsssl.evaluation.blocks import in_blocks
from rsssl.evaluation.combined import Combined
from rsssl.evaluation.features import Beside, FeatureBank, Weights, feature_bank, statistics_bank
from rsssl.evaluation.heads import Head
from rsssl.evaluation.job import Job
from rsssl.evaluation.on_disk import Features
from rsssl.evaluation.outlook import outlook
from rsssl.evaluation.paper import paper_probe
from rsssl.evaluation.trust import Trust
from rsssl.models.preprocess import Preprocess, as_it_is
from rsssl.models.statistics import STATISTICS

SYMMETRIES = 8  # flips and quarter turns
COVERAGES = (0.8, 0.9, 0.95)  # at which sets of plausible classes are looked at


def frozen(
    job: Job, probe: Probe, weights: Weights, ahead: bool = False
) -> tuple[dict[str, Any], Head | None, Trust | None]:
    """A probe on the frozen features of `weights`: its figures, and on rank 0 the fitted head. Looking `ahead`, the
    figures say too what more labels would bring, and have as `predictions` the test images' largest probabilities
    and the classes of these, each (m,); and what it does not know comes with the head."""
    symmetries = range(SYMMETRIES if job.tta else 1)
    banks = [seen_by(job, Combined.of(probe), weights, s) for s in symmetries]
    return fitted(job, probe, banks, ahead)


def seen_by(job: Job, probe: Combined, weights: Weights, symmetry: int = 0) -> FeatureBank | Beside:
    """The features that a classifier looks at: the network's, and beside them the statistics of the bands."""
    bank = feature_bank(job.store, job.data.pack, weights, job.device, symmetry)
    if not probe.looks_at_statistics:
        return bank
    return Beside(bank, statistics_bank(job.store, job.data.pack, shown(probe, weights.preprocess), job.device))


def shown(probe: Probe, preprocess: Preprocess) -> Preprocess:
    """How images are presented to a classifier: as to its network, or as they are, where it looks at the statistics of
    the bands alone."""
    return as_it_is(preprocess.card) if Combined.of(probe).no_network else preprocess


def statistics(job: Job, probe: Probe) -> dict[str, Any]:
    """The same probe on nothing but each band's mean, standard deviation, least and largest value."""
    pack = job.data.pack
    return fitted(job, probe, [statistics_bank(job.store, pack, as_it_is(pack.card), job.device)])[0]


def fitted(
    job: Job, probe: Probe, banks: Sequence[FeatureBank | Beside], ahead: bool = False
) -> tuple[dict[str, Any], Head | None, Trust | None]:
    """Fits the probe to the labelled features and tests it; probabilities are averaged over the banks' symmetries. The
    features of the test images, and those of the pool, stay on the disk."""
    combined = Combined.of(probe)
    x: Features = (banks[0].kept if combined.on_disk else banks[0].get)(job.train)
    y = job.labels(job.train)
    combined.n_statistics = len(STATISTICS) * job.data.pack.card.n_bands if isinstance(banks[0], Beside) else 0
    tests = [bank.kept(job.test) for bank in banks]
    pool = banks[0].kept(pool_rows(job, combined.pool_images)) if combined.pool_images else None
    if rank() > 0 and not combined.divided:
        return {}, None, None
    if job.protocol == "paper" and combined.paper_head:
        return *paper_probe(job, x[:], y, [t[:] for t in tests]), None
    combined.groups = job.groups()
    combined.fit(x, y, job.n_classes, job.seed, pool)

    def tested(head: Head) -> Tensor:
        shares = in_blocks(head, tests[0], head.compared, combined.divided)
        for other in tests[1:]:
            shares += in_blocks(head, other, head.compared, combined.divided)
        return shares / len(tests)

    head = combined.head()
    if job.crossed:
        probabilities, truth = combined.held
        plain, parts = combined.held_plain, {name: logits.softmax(1) for name, logits in combined.held_parts.items()}
        if not len(truth):
            raise UserError(
                "there is no test set, and no class has labels in two places, so nothing can be tested: draw more "
                "labels, or give some that test, dataset.test=FILE"
            )
    else:
        probabilities, truth = tested(head), job.labels(job.test)
        plain, parts = tested(combined.plain), {name: tested(h) for name, h in combined.heads.items()}
    figures = job.figures(probabilities.argmax(1), truth) | {"details": combined.details}
    before = {k: v for k, v in job.trust(plain, truth).items() if k in ("ece", "brier", "nll")}
    figures["calibration"] = job.trust(probabilities, truth) | {"before": before}
    figures["n_test"] = len(truth)
    if parts:
        found = {name: job.figures(shares.argmax(1), truth) for name, shares in parts.items()}
        figures["parts"] = {name: {k: f[k] for k in ("oa", "aa", "kappa")} for name, f in found.items()}
    if rank() > 0 or not ahead:
        return figures, head if rank() == 0 else None, None
    figures["outlook"] = outlook(combined, x, y, job.n_classes, job.seed, figures["oa"], len(truth))
    trust = Trust.of(*combined.held, job.n_classes, x, x[:0] if pool is None else pool)
    if not job.crossed:
        figures["predictions"] = tuple(probabilities.max(1))
    figures["sets"] = {str(c): job.covered(probabilities >= trust.least(c), truth) for c in COVERAGES}
    return figures, head, trust


def random_split(job: Job, probe: Probe, weights: Weights, ts: int | float | str) -> dict[str, Any]:
    """What a test set drawn without regard to the ground would have said, where another one was drawn."""
    ground = job.data.ground
    if ground is None or job.crossed or ground.own_test.any():
        return {}
    try:
        found = frozen(job.at_random(ts), probe, weights)[0]
    except UserError:  # a class may have fewer labels there; the run's own result stands
        return {}
    return {"random_split": {k: found[k] for k in ("oa", "aa", "kappa") if k in found}}


def soft_labels(job: Job, probe: Probe, weights: Weights, images: int) -> tuple[np.ndarray, Tensor]:
    """Rows (N,) of the pool without a label, and on rank 0 what the probe thinks they are (N, n_classes)."""
    combined, rows = Combined.of(probe), pool_rows(job, images)
    bank = seen_by(job, combined, weights)
    combined.n_statistics = len(STATISTICS) * job.data.pack.card.n_bands if isinstance(bank, Beside) else 0
    x, pool = bank.get(job.train), bank.kept(rows)
    seen = bank.kept(pool_rows(job, combined.pool_images)) if combined.pool_images else None
    if rank() > 0:
        return rows, torch.empty(0)
    combined.groups = job.groups()
    combined.fit(x, job.labels(job.train), job.n_classes, job.seed, seen)
    return rows, in_blocks(combined.head(), pool, combined.head().compared, divided=False)


def pool_rows(job: Job, images: int) -> np.ndarray:
    """The pool's rows that have no label in this job, of so many images that are the same for every job."""
    pool = job.data.split.pool
    order = rng.Order(rng.fold("unlabelled", job.data.split.hash), len(pool))
    return np.setdiff1d(pool[order[:images]], job.train)
