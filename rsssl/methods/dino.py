"""DINO: a student gives any view of an image the soft cluster that its teacher gives a full view of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import add_up, world_size
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision
from rsssl.methods.prototypes import Prototypes
from rsssl.models.ema import MovingAverage


@full_precision
def self_distillation(
    teacher: Tensor, student: Tensor, centre: Tensor, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """Cross entropy of the student's outputs under the teacher's of other views (arXiv 2104.14294, equation 3).

    Args:
        teacher: (T, B, K) outputs for the full views.
        student: (S, B, K) outputs for all views. The first T are those that the teacher saw; no view is compared with
            itself (algorithm 1).
        centre: (K,) is subtracted from the teacher's outputs.
        teacher_temperature: divides the teacher's outputs, which sharpens them.
        student_temperature: divides the student's outputs.

    Returns:
        A scalar.
    """
    p = ((teacher - centre) / teacher_temperature).softmax(2)
    log_q = (student / student_temperature).log_softmax(2)
    loss = -torch.einsum("tbk,sbk->ts", p, log_q) / teacher.shape[1]
    return (loss.sum() - loss.diagonal().sum()) / (loss.numel() - len(teacher))


class DINO(Method):
    """Emerging properties in self-supervised vision transformers (Caron et al. 2021, arXiv 2104.14294).

    It trains any backbone, not only transformers.

    Args:
        backbone: images to features.
        views: full views of each image; only the student sees the augmentation's small views (augment=multicrop).
        prototypes: dimensions of the output.
        momentum: of the teacher at the start; it rises to 1 along half a cosine.
        teacher_temperature: [at the start, after the warm-up].
        warmup: share of the steps during which the teacher's temperature rises.
        student_temperature: divides the student's outputs.
        centre_momentum: of the moving mean that is subtracted from the teacher's outputs.
        frozen: share of the steps during which the last layer stays as it started.
        hidden: width of the head's hidden layers.
        bottleneck: width of the head's last layer before the prototypes.
    """

    least_views = 2
    uses_local = True
    centre: Tensor
    progress: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        views: int,
        prototypes: int,
        momentum: float,
        teacher_temperature: tuple[float, float],
        warmup: float,
        student_temperature: float,
        centre_momentum: float,
        frozen: float,
        hidden: int,
        bottleneck: int,
    ) -> None:
        super().__init__(backbone, views)
        self.temperatures, self.warmup = tuple(teacher_temperature), warmup
        self.student_temperature, self.centre_momentum, self.frozen = student_temperature, centre_momentum, frozen
        self.head = nn.Sequential(
            nn.Linear(self.num_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
            Prototypes(bottleneck, prototypes),
        )
        self.teacher = MovingAverage(backbone, self.head, momentum=momentum)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("progress", torch.zeros(()))  # share of the steps that are done, for checkpoints
        self.share_done: float | None = 0.0  # the same, which need not be asked of the device
        self.register_load_state_dict_post_hook(DINO.forget)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        n, progress = len(batch.ids), self.done()
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        of_all_views = [features]
        if batch.local is not None:
            of_all_views.append(self.backbone(batch.local.flatten(0, 1)))
        student = self.head(torch.cat(of_all_views)).unflatten(0, (-1, n))  # (V + L, B, K)
        teacher = self.teacher(batch.views.flatten(0, 1)).unflatten(0, (-1, n))  # (V, B, K)
        low, high = self.temperatures
        temperature = low + (high - low) * min(1.0, progress / max(self.warmup, 1e-9))
        loss = self_distillation(teacher, student, self.centre.clone(), temperature, self.student_temperature)
        self.move_centre(teacher)
        entropy = F.softmax((teacher[0] - self.centre) / temperature, 1).mean(0)
        return {"loss": loss, "embedding": features, "teacher_entropy": torch.special.entr(entropy).sum()}

    def done(self) -> float:
        """The share of the steps that are done."""
        if self.share_done is None:
            self.share_done = float(self.progress)
        return self.share_done

    def forget(self, *_: Any) -> None:
        """After a state was loaded: the share of the steps is what the buffer says."""
        self.share_done = None

    @torch.no_grad()
    def move_centre(self, teacher: Tensor) -> None:
        """Moves the centre towards the mean of the teacher's outputs (T, B, K) over all ranks (equation 4)."""
        mean = add_up(teacher.to(self.centre.dtype).mean((0, 1))) / world_size()
        self.centre.lerp_(mean, 1 - self.centre_momentum)

    def after_backward(self, step: int, total_steps: int) -> None:
        if step / total_steps < self.frozen:
            self.head[-1].weight.grad = None

    def after_step(self, step: int, total_steps: int) -> None:
        self.teacher.follow(step, total_steps)
        self.share_done = (step + 1) / total_steps
        self.progress.fill_(self.share_done)
