"""Training the whole network with the labelled images: how long, and how sure it may be, is found on held-out ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsssl.engine.distributed import broadcast
from rsssl.engine.ranks import alone, rank
from rsssl.evaluation.base import Probe, held_out_folds
from rsssl.evaluation.combined import Combined, pool_weights
from rsssl.evaluation.features import Weights, feature_bank
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.job import Job
from rsssl.evaluation.network_fit import Finetuning, NetworkFit
from rsssl.evaluation.paper import BestEpoch

FOLDS = 5
CHECKS = 10  # times that the held-out images are looked at during a training


@dataclass(frozen=True)
class NetworkTraining:
    """`evaluate=finetune`, `selftrain` and `scratch`: which weights the network starts from, and what it learns from.

    Args:
        start: "pretrained" or "random".
        rank: of what is added to the weights of each layer; None: all weights are trained (see `Finetuning`).
        held_out: how many of five folds of the labelled images are held out, one after the other, to find how many
            steps are best and how sure the network may be; 0: all steps, and no calibration.
        pool_images: images of the pool that are learnt from too, with the probabilities that `evaluate=auto` gives them
            in place of labels (self-training with soft labels and augmented images, Xie et al. 2020, "Self-training
            with Noisy Student", arXiv 1911.04252).
    """

    start: str
    rank: int | None = None
    held_out: int = 0
    pool_images: int = 0
    trains_network = True


def train_network(
    job: Job,
    weights: Weights,
    how: Finetuning,
    held_out: int,
    probe: Probe | None,
    more: tuple[np.ndarray, Tensor] | None = None,
) -> tuple[dict[str, Any], LinearHead | None, Any]:
    """The network trained with the labelled images: its figures, and on rank 0 its head and its backbone.

    Rank 0 does it while the others wait: a few labels are too few to divide, and the result is that of one process.

    Args:
        job: the data, the classes and the labelled images.
        weights: what the network starts from.
        how: it is trained.
        held_out: see `NetworkTraining`.
        probe: a classifier of frozen features whose linear layer the network's starts from (Kumar et al. 2022,
            arXiv 2202.10054); None: zeros.
        more: rows (N,) of the pack without labels, and what they are (N, n_classes) of each class.
    """
    if rank() > 0:
        return broadcast(None), None, None
    with alone():
        figures, fit, sharpness = Lessons(job, weights, how, probe, more).taught(held_out)
    head = LinearHead(sharpness * fit.model.weight.detach(), sharpness * fit.model.bias.detach())
    return broadcast(figures), head, fit.network()


class Lessons:
    """What a network is taught, whole or with some labelled images held out. See `train_network`."""

    def __init__(
        self, job: Job, weights: Weights, how: Finetuning, probe: Probe | None, more: tuple[np.ndarray, Tensor] | None
    ) -> None:
        self.job, self.weights, self.how, self.probe, self.more = job, weights, how, probe, more
        self.rows = np.sort(job.train)
        self.labels, self.groups = job.labels(self.rows), replace(job, train=self.rows).groups()
        if probe:
            self.features = feature_bank(job.store, job.data.pack, weights, job.device).get(self.rows)

    def lesson(self, some: Tensor, how: Finetuning) -> NetworkFit:
        """The network before it is taught some (n,) bool of the labelled images, and those without labels."""
        rows, truth, layer = self.rows[some.numpy()], self.labels[some], None
        if self.probe:
            probe = Combined.of(self.probe)
            probe.groups = None if self.groups is None else self.groups[some]
            layer = probe.fit(self.features[some], truth, self.job.n_classes, self.job.seed).head().layer
        if self.more:
            rows = np.concatenate([rows, self.more[0]])
            truth = torch.cat([F.one_hot(truth, self.job.n_classes).float(), self.more[1]])
        return NetworkFit(self.job, self.weights, how, rows, truth, layer)

    def taught(self, held_out: int) -> tuple[dict[str, Any], NetworkFit, float]:
        """The figures, the network, and what its logits are to be multiplied by."""
        job = self.job
        fit = self.lesson(torch.ones(len(self.rows), dtype=torch.bool), self.how)
        total = fit.batches.total_steps
        if job.protocol == "paper":
            return *self.best_epoch(fit), 1.0
        steps, sharpness, found = self.cross_validated(held_out, total)
        run = fit.train(steps) if steps else None
        logits = fit.predict(job.test, job.tta)
        details = {"seconds": run.seconds if run else 0.0, "steps": steps, "sharpness": sharpness} | found
        probabilities = (sharpness * logits).softmax(1)
        before = {k: v for k, v in job.trust(logits.softmax(1)).items() if k in ("ece", "brier", "nll")}
        trust = {"calibration": job.trust(probabilities) | {"before": before}}
        shown = {"predictions": tuple(probabilities.max(1))} if len(probabilities) else {}
        return job.figures(probabilities.argmax(1)) | {"details": details} | trust | shown, fit, sharpness

    def cross_validated(self, rounds: int, total: int) -> tuple[int, float, dict[str, Any]]:
        """The number of steps, of `total`, with the least log-loss on labelled images that were held out, what logits
        are to be multiplied by then, and how it was found."""
        fold_of, _ = held_out_folds(self.labels, self.job.seed, FOLDS, groups=self.groups)
        rounds = min(rounds, int(fold_of.max()) + 1)
        if not rounds or int(fold_of.max()) < 1:
            return total, 1.0, {"held_out": 0}
        found: dict[int, list[Tensor]] = {}
        for r in range(rounds):
            out = fold_of == r
            fit = self.lesson(~out, replace(self.how, steps=total, title=f"{self.how.title} {r + 1}/{rounds}"))

            def see(step: int, fit: NetworkFit = fit, out: Tensor = out) -> None:
                found.setdefault(step, []).append(fit.predict(self.rows[out.numpy()]))

            if self.probe:
                see(0)
            fit.train(total, CHECKS, see)
        truth = torch.cat([self.labels[fold_of == r] for r in range(rounds)])
        seen = {step: torch.cat(parts) for step, parts in found.items()}
        sharpness = {s: float(pool_weights(logits[None], truth, torch.ones(1))) for s, logits in seen.items()}
        losses = {s: float(F.cross_entropy(sharpness[s] * logits, truth)) for s, logits in seen.items()}
        steps = min(losses, key=lambda s: losses[s])
        hits = {s: float((logits.argmax(1) == truth).float().mean()) for s, logits in seen.items()}
        return steps, sharpness[steps], {"held_out": len(truth), "log_loss": losses, "held_out_accuracy": hits}

    def best_epoch(self, fit: NetworkFit) -> tuple[dict[str, Any], NetworkFit]:
        """protocol=paper: the epoch is the best on half of the test images."""
        job, best = self.job, BestEpoch(self.job)
        total, length = fit.batches.total_steps, fit.batches.steps_per_epoch

        def see(step: int) -> None:
            shares = fit.predict(job.test, job.tta).softmax(1)
            best.see(step // length, shares, lambda: {k: v.clone() for k, v in fit.model.state_dict().items()})

        run = fit.train(total, self.how.epochs, see)
        fit.model.load_state_dict(best.state)
        return job.figures(best.predicted) | {"details": {"seconds": run.seconds, "steps": total} | best.details}, fit
