"""One training of a whole network with labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl import rng
from rsssl.augment import Views, prepare, symmetries
from rsssl.batch import Batch
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pool import Pool, Source, stored
from rsssl.engine.device import autocast, on_device
from rsssl.engine.loop import Fit
from rsssl.engine.step_memory import fit_into_memory, images_at_once
from rsssl.evaluation.features import Weights, parts_of
from rsssl.evaluation.job import Job
from rsssl.models.low_rank import adapt, merge
from rsssl.models.parts import in_parts
from rsssl.optim import parameter_groups

CHUNK = 256  # images looked at together


@dataclass(frozen=True)
class Finetuning:
    """How a network is trained with labels.

    Args:
        views: the augmentation.
        optimizer: what `conf/optimizer` composes to.
        schedule: what `conf/schedule` composes to.
        epochs: passes over the images.
        steps: in place of whole epochs.
        batch_size: images a step.
        lr: peak learning rate of the head.
        backbone_lr: peak learning rate of the backbone.
        rank: of what is added to each layer's weights, which stay as they are, normalisations too; None: all weights
            are trained.
        title: for the progress bar.
    """

    views: Views
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    epochs: int
    steps: int | None
    batch_size: int
    lr: float
    backbone_lr: float
    rank: int | None
    title: str


class Classifier(nn.Module):
    """A backbone and a linear layer under cross entropy (Tao et al. 2020, section II-C).

    Args:
        backbone: images to features.
        layer: weight (K, D) and bias (K,) that the linear layer starts from.
        truth: (N,) int64 or (N, K) what each image of the pool of batches is, or is of each class.
        fixed: the backbone's normalisations and dropout stay as in use.
    """

    def __init__(self, backbone: nn.Module, layer: tuple[Tensor, Tensor], truth: Tensor, fixed: bool = False) -> None:
        super().__init__()
        self.backbone, self.truth, self.fixed = backbone, truth, fixed
        self.weight, self.bias = (nn.Parameter(t.clone().float()) for t in layer)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.fixed:
            self.backbone.eval()
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Images (n, C, H, W) to logits (n, K)."""
        return F.linear(self.backbone(images), self.weight, self.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(batch.views[0])
        truth = self.truth[batch.ids.cpu()].to(logits.device)
        accuracy = (logits.argmax(1) == (truth if truth.ndim == 1 else truth.argmax(1))).float().mean()
        return {"loss": F.cross_entropy(logits.float(), truth), "train_accuracy": accuracy}

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing to update."""


class NetworkFit:
    """A network that is to learn rows (n,) of a pack with their truth, (n,) int64 or (n, K) shares of the classes.

    Args:
        job: the data and the classes.
        weights: what the network starts from.
        how: it is trained.
        layer: what its linear layer starts from; None: zeros.
    """

    def __init__(
        self,
        job: Job,
        weights: Weights,
        how: Finetuning,
        rows: np.ndarray,
        truth: Tensor,
        layer: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.job, self.preprocess, self.how = job, weights.preprocess, how
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.fold("classifier", job.seed) % 2**63)
            backbone = weights.build()
            if how.rank:
                adapt(backbone, how.rank)
        width: int = backbone.num_features  # type: ignore[assignment]
        layer = layer or (torch.zeros(job.n_classes, width), torch.zeros(job.n_classes))
        self.model = on_device(Classifier(backbone, layer, truth, fixed=bool(how.rank)), job.device)
        self.batches = PoolBatches(
            Pool([Source(job.data.pack, rows)], job.data.pack.labels[rows]),
            how.views,
            1,
            self.preprocess,
            Sampling(how.batch_size, how.epochs, job.seed, job.data.split.hash, how.steps),
            job.device,
        )

    def train(self, until: int, times: int = 0, see: Callable[[int], None] | None = None) -> Fit:
        """Trains until that step of all; calls see(step) so many times, evenly spread."""
        how, total = self.how, self.batches.total_steps
        schedule = instantiate(how.schedule, _convert_="all")
        groups = [group | {"lr": how.backbone_lr} for group in parameter_groups(self.model.backbone)]
        groups += [{"params": [self.model.weight]}, {"params": [self.model.bias], "weight_decay": 0.0}]
        if rows_at_once := fitting(self.model, self.batches, self.job.device):
            in_parts(self.model.backbone, rows_at_once)
        self.batches.total_steps = until
        fit = Fit(
            self.model,
            self.batches,
            instantiate(how.optimizer, lr=how.lr, params=groups, _convert_="all"),
            lambda step, _: schedule(step, total),
            self.job.device,
            title=how.title,
            meanwhile=[(times, see)] if see and times else [],  # type: ignore[list-item]
        )
        fit.run()
        return fit

    @torch.inference_mode()
    def predict(self, rows: np.ndarray, tta: bool = False) -> Tensor:
        """The logits (len(rows), K) of rows of the pack, on the CPU; their mean over the eight symmetries when `tta`,
        taken as probabilities."""
        model, pack, device = self.model.eval(), self.job.data.pack, self.job.device
        if not len(rows):
            return torch.zeros(0, self.job.n_classes)
        at_once = images_at_once(model.backbone, prepare(stored(pack, rows[:1], device), self.preprocess), CHUNK)
        found = []
        for part in parts_of(rows, at_once):
            x = prepare(stored(pack, part, device), self.preprocess)
            with autocast(device):
                logits = torch.stack([model.logits(v).float() for v in (symmetries(x) if tta else [x])])
            found.append((logits.softmax(2).mean(0).log() if tta else logits[0]).cpu())
        return torch.cat(found)

    def network(self) -> nn.Module:
        """The backbone, of plain layers."""
        merge(self.model.backbone)
        return self.model.backbone


def fitting(model: Classifier, batches: PoolBatches, device: torch.device) -> int | None:
    """How many images go through the backbone together where not the whole batch can; UserError where it does not fit.

    Looked at on a copy: batch normalisation would learn from the images.
    """
    epoch, ids = batches.ids(0)
    trial = copy.deepcopy(model).train()
    with torch.random.fork_rng():
        _, rows = fit_into_memory(
            trial, trial.backbone, lambda n: batches.again(epoch, ids[:n], 0), len(ids), device, "finetune"
        )
    return rows
