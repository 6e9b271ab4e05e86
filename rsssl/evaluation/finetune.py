"""Training the whole network with the labelled images: from pre-trained weights, or from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.augment import prepare, symmetries
from rsssl.batch import Batch
from rsssl.data.loader import stored
from rsssl.data.pack import Pack
from rsssl.engine.loop import Batches, Fit, autocast


@dataclass(frozen=True)
class NetworkTraining:
    """`evaluate=finetune` and `evaluate=scratch`: which weights the network starts from.

    Args:
        start: "pretrained" or "random".
    """

    start: str = "pretrained"


class Classifier(nn.Module):
    """A backbone and a linear layer under cross entropy (Tao et al. 2020, section II-C)."""

    def __init__(self, backbone: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.num_features), n_classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.head(self.backbone(batch.views[0]))
        assert batch.labels is not None
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits.float(), batch.labels), "train_accuracy": accuracy}

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing to update."""


@torch.inference_mode()
def predict(
    model: Classifier,
    pack: Pack,
    rows: np.ndarray,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    tta: bool = False,
    chunk: int = 256,
) -> Tensor:
    """Class probabilities (len(rows), n_classes) on the CPU, averaged over the eight symmetries when `tta`."""
    model.eval()
    out = []
    for start in range(0, len(rows), chunk):
        x = prepare(stored(pack, rows[start : start + chunk], device), pack.card, size, mean, std)
        with autocast(device):
            views = symmetries(x) if tta else [x]
            logits = [model.head(model.backbone(v)).float().softmax(1) for v in views]
        out.append(torch.stack(logits).mean(0).cpu())
    return torch.cat(out)


def train_classifier(
    model: Classifier,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int, int], float],
    device: torch.device,
    title: str,
    after_epoch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Trains to the end; `after_epoch(epoch)` sees the model after each pass."""
    fit = Fit(model, batches, optimizer, schedule, device, title=title, after_epoch=after_epoch)
    fit.run()
    return {"seconds": fit.seconds, "steps": batches.total_steps}
