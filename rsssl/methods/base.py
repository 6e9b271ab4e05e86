"""What a self-supervised method is to the engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.errors import UserError
from rsssl.rng import fold, uniform


class Method(nn.Module):
    """Base of all methods: a backbone, what is trained beside it, and a loss.

    A method of your own is a file like `rsssl/methods/simclr.py`: a subclass that says how many views of an image it wants
    (`n_views`) and turns them into {"loss": scalar, "embedding": (n, D), plus scalars to log}. Its YAML names the class as
    `_target_` and gives its other arguments.

    Args:
        backbone: images (B, C, S, S) to features (B, `backbone.num_features`).
        views: views of each image in a step.
    """

    least_views = 1
    uses_local = False  # whether it learns from the small views of a multi-crop augmentation, `batch.local`
    whole_images = (
        True  # False: trained on parts of images, so that batch norm is recalibrated on whole ones in the end
    )
    together: str | None = (
        None  # "folder" or "name": odd views show another tile of the same place (see data/places.py)
    )

    def __init__(self, backbone: nn.Module, views: int = 2) -> None:
        super().__init__()
        need(views >= self.least_views, f"ssl.views={views} is too few: type ssl.views={self.least_views}")
        self.backbone = backbone
        self.n_views = views
        self.num_features: int = int(backbone.num_features)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch)")

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after each optimizer step, for moving averages, queues and centres."""

    def trained_modules(self) -> list[nn.Module]:
        """The modules the optimizer trains."""
        return [self]

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What a person should see of the training: columns (n, C, S, S) by their titles, standardised as the views are, a row
        for each image, the image itself last. The views, unless a method has more to show. Called in evaluation mode."""
        return {f"view {i + 1}": view for i, view in enumerate(batch.views)}

    def draws(self, batch: Batch, name: str, n: int) -> Tensor:
        """Random numbers in [0, 1), (V * B, n), one row for each of the views in turn: a function of the sample and the
        epoch, not of the batch, the rank or what was drawn before."""
        rows = [uniform(fold(batch.key, name, view), batch.ids, n) for view in range(len(batch.views))]
        return torch.cat(rows).to(batch.views.device)


def need(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds: for what a constructor is given."""
    if not condition:
        raise UserError(message)
