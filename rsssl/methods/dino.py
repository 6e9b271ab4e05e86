"""DINO: a student's soft cluster of any view of an image is its teacher's, which has seen a full view."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision
from rsssl.methods.prototypes import Prototypes
from rsssl.models.ema import MovingAverage


@full_precision
def self_distillation(
    teacher: Tensor, student: Tensor, centre: Tensor, teacher_temperature: float, student_temperature: float = 0.1
) -> Tensor:
    """Cross entropy of student outputs (S, B, K) under the centred, sharpened teacher outputs (T, B, K) of other views.

    The first T of the S views are those the teacher saw; a view is not compared with itself (arXiv 2104.14294,
    equation 3 and algorithm 1). centre: (K,). A scalar.
    """
    p = ((teacher - centre) / teacher_temperature).softmax(2)
    log_q = (student / student_temperature).log_softmax(2)
    loss = -torch.einsum("tbk,sbk->ts", p, log_q) / teacher.shape[1]
    return (loss.sum() - loss.diagonal().sum()) / (loss.numel() - len(teacher))


class DINO(Method):
    """Emerging properties in self-supervised vision transformers (Caron et al. 2021, arXiv 2104.14294); for any backbone.

    Args:
        backbone: images to features.
        views: full views of each image; the augmentation's small views are the student's alone (augment=multicrop).
        prototypes: dimensions of the output.
        momentum: of the teacher, rising to 1 along half a cosine.
        teacher_temperature: [at the start, after the warm-up]. warmup: share of the steps between them.
        student_temperature: of the student.
        centre_momentum: of the moving mean that is taken off the teacher's outputs.
        frozen: share of the steps during which the last layer stays as it started.
        hidden, bottleneck: widths of the head's layers.
    """

    least_views = 2
    uses_local = True

    def __init__(
        self,
        backbone: nn.Module,
        views: int = 2,
        prototypes: int = 256,
        momentum: float = 0.99,
        teacher_temperature: tuple[float, float] = (0.04, 0.04),
        warmup: float = 0.3,
        student_temperature: float = 0.1,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        hidden: int = 512,
        bottleneck: int = 128,
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
        self.register_buffer("progress", torch.zeros(()))  # share of the steps done
        self.centre: Tensor
        self.progress: Tensor

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        n, progress = len(batch.ids), float(self.progress)
        features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        everything = [features]
        if batch.local is not None:
            everything.append(self.backbone(batch.local.flatten(0, 1)))
        self.head[-1].weight.requires_grad_(progress >= self.frozen)
        student = self.head(torch.cat(everything)).unflatten(0, (-1, n))  # (V + L, B, K)
        teacher = self.teacher(batch.views.flatten(0, 1)).unflatten(0, (-1, n))  # (V, B, K)
        low, high = self.temperatures
        temperature = low + (high - low) * min(1.0, progress / max(self.warmup, 1e-9))
        loss = self_distillation(teacher, student, self.centre.clone(), temperature, self.student_temperature)
        self.move_centre(teacher)
        entropy = F.softmax((teacher[0] - self.centre) / temperature, 1).mean(0)
        return {"loss": loss, "embedding": features, "teacher_entropy": torch.special.entr(entropy).sum()}

    @torch.no_grad()
    def move_centre(self, teacher: Tensor) -> None:
        """The centre follows the mean of the teacher's outputs (T, B, K) over all ranks (equation 4)."""
        self.centre.lerp_(gather(teacher.to(self.centre.dtype), dim=1).mean((0, 1)), 1 - self.centre_momentum)

    def after_step(self, step: int, total_steps: int) -> None:
        self.teacher.follow(step, total_steps)
        self.progress.fill_((step + 1) / total_steps)
