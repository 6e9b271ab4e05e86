"""Training the whole network with the labelled images: from pre-trained weights, or from scratch."""

from __future__ import annotations

import copy
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
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source, stored
from rsssl.engine.device import autocast, on_device
from rsssl.engine.distributed import broadcast
from rsssl.engine.loop import Fit
from rsssl.engine.ranks import alone, rank
from rsssl.engine.step_memory import fit_into_memory, images_at_once
from rsssl.evaluation.features import Weights, parts_of
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.job import Job
from rsssl.evaluation.paper import BestEpoch
from rsssl.models.parts import in_parts
from rsssl.models.preprocess import Preprocess
from rsssl.optim import parameter_groups

CHUNK = 256  # images tested at a time


@dataclass(frozen=True)
class NetworkTraining:
    """`evaluate=finetune`, `selftrain` and `scratch`: which weights the network starts from, and what it learns from.

    Args:
        start: "pretrained" or "random".
        pool_images: images of the pool that are learnt from too, with the probabilities that `evaluate=auto` gives them
            in place of labels (self-training with soft labels and augmented images, Xie et al. 2020, "Self-training
            with Noisy Student", arXiv 1911.04252).
    """

    start: str
    pool_images: int = 0
    trains_network = True


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
    title: str


class Classifier(nn.Module):
    """A backbone and a linear layer under cross entropy (Tao et al. 2020, section II-C).

    Args:
        backbone: images to features.
        n_classes: of the layer.
        soft: (N, n_classes) what each image of the pool of batches is of each class, in place of its label.
    """

    def __init__(self, backbone: nn.Module, n_classes: int, soft: Tensor | None = None) -> None:
        super().__init__()
        self.soft = soft
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.num_features), n_classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.head(self.backbone(batch.views[0]))
        assert batch.labels is not None
        truth = batch.labels if self.soft is None else self.soft[batch.ids.cpu()].to(logits.device)
        accuracy = (logits.argmax(1) == (truth if truth.ndim == 1 else truth.argmax(1))).float().mean()
        return {"loss": F.cross_entropy(logits.float(), truth), "train_accuracy": accuracy}

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing to update."""


@torch.inference_mode()
def predict(model: Classifier, pack: Pack, rows: np.ndarray, preprocess: Preprocess, tta: bool, at_once: int) -> Tensor:
    """Class probabilities (len(rows), n_classes) on the CPU, averaged over the eight symmetries when `tta`; so many
    images at once."""
    model.eval()
    device = model.head.weight.device
    parts = []
    for part in parts_of(rows, at_once):
        x = prepare(stored(pack, part, device), preprocess)
        with autocast(device):
            views = symmetries(x) if tta else [x]
            shares = [model.head(model.backbone(v)).float().softmax(1) for v in views]
        parts.append(torch.stack(shares).mean(0).cpu())
    return torch.cat(parts)


def train_network(
    job: Job, weights: Weights, how: Finetuning, more: tuple[np.ndarray, Tensor] | None = None
) -> tuple[dict[str, Any], LinearHead | None, Any]:
    """The network trained with the labelled images: its figures, and on rank 0 its head and its backbone.

    `more` are rows (N,) of the pack without labels, and what they are (N, n_classes) of each class.

    Rank 0 does it while the others wait: a few labels are too few to divide, and the result is that of one process.
    """
    if rank() > 0:
        return broadcast(None), None, None
    with alone():
        figures, model = _train(job, weights, how, more)
    return broadcast(figures), LinearHead(model.head.weight.detach(), model.head.bias.detach()), model.backbone


def _train(
    job: Job, weights: Weights, how: Finetuning, more: tuple[np.ndarray, Tensor] | None
) -> tuple[dict[str, Any], Classifier]:
    pack, preprocess = job.data.pack, weights.preprocess
    rows, soft = np.sort(job.train), None
    if more:
        rows = np.concatenate([rows, more[0]])
        soft = torch.cat([F.one_hot(job.labels(np.sort(job.train)), job.n_classes).float(), more[1]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("classifier", job.seed) % 2**63)
        model = on_device(Classifier(weights.build(), job.n_classes, soft), job.device)
    groups = [group | {"lr": how.backbone_lr} for group in parameter_groups(model.backbone)]
    groups += parameter_groups(model.head)
    optimizer = instantiate(how.optimizer, lr=how.lr, params=groups, _convert_="all")
    batches = PoolBatches(
        Pool([Source(pack, rows)], pack.labels[rows]),
        how.views,
        1,
        preprocess,
        Sampling(how.batch_size, how.epochs, job.seed, job.data.split.hash, how.steps),
        job.device,
    )
    if rows_at_once := fitting(model, batches, job.device):
        in_parts(model.backbone, rows_at_once)
    image = prepare(stored(pack, rows[:1], job.device), preprocess)
    at_once = images_at_once(model.backbone.eval(), image, CHUNK)
    best = BestEpoch(job) if job.protocol == "paper" else None

    def tested() -> Tensor:
        return predict(model, pack, job.test, preprocess, job.tta, at_once)

    def see(step: int) -> dict[str, float]:
        if best:
            epoch = step // batches.steps_per_epoch
            best.see(epoch, tested(), lambda: {k: v.clone() for k, v in model.state_dict().items()})
        return {}

    fit = Fit(
        model,
        batches,
        optimizer,
        instantiate(how.schedule, _convert_="all"),
        job.device,
        title=how.title,
        meanwhile=[(how.epochs, see)] if best else [],
    )
    fit.run()
    details = {"seconds": fit.seconds, "steps": batches.total_steps}
    if best is None:
        probabilities = tested()
        trust = {"calibration": job.trust(probabilities)}
        return job.figures(probabilities.argmax(1)) | {"details": details} | trust, model
    model.load_state_dict(best.state)
    return job.figures(best.predicted) | {"details": details | best.details}, model


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
