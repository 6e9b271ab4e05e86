"""What a self-supervised method is to the engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine.device import sent
from rsssl.errors import UserError
from rsssl.models.batch_norm import hold_statistics
from rsssl.rng import fold, uniform


class Method(nn.Module):
    """Base of all methods: a backbone, the modules that are trained beside it, and a loss.

    To add a method, write a file like `rsssl/methods/simclr.py`: a subclass with `forward`, and with `least_views`, the
    fewest views of an image that make sense. Its YAML names the class as `_target_` and gives all its other arguments,
    `views` among them: how many views of each image a step has.

    Args:
        backbone: images (B, C, S, S) to features (B, `backbone.num_features`).
        views: views of each image in a step.

    Raises:
        UserError: when there are fewer views than the method needs (`least_views`).
    """

    least_views = 1
    # Whether it learns from `batch.local` too, the small views of a multi-crop augmentation.
    uses_local = False
    # False: trained on parts of images, so batch norm is recalibrated on whole images after the training.
    whole_images = True
    # "folder" or "name": the odd views show another tile of the same place (see data/places.py).
    together: str | None = None

    def __init__(self, backbone: nn.Module, views: int) -> None:
        super().__init__()
        need(views >= self.least_views, f"ssl.views={views} is too few: type ssl.views={self.least_views}")
        self.backbone = backbone
        self.n_views = views
        self.num_features: int = int(backbone.num_features)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch. Losses that compare images gather them first: see `rsssl.engine.distributed.gather`.

        Returns:
            Tensors: "loss", a scalar with a gradient; "embedding" (n, D), which is watched for a collapse and may be
            left out; and further scalars, which are logged under their names.
        """
        raise UserError(
            f"{type(self).__name__} has no forward: write def forward(self, batch: Batch) -> dict[str, Tensor] into it"
        )

    def after_backward(self, step: int, total_steps: int) -> None:
        """Called when a step's gradients are there, before the ranks join them: the place to leave some of them out.

        Args:
            step: number of the step, from 0.
            total_steps: steps of the whole training.
        """

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after each optimizer step: the place to update moving averages.

        Args:
            step: number of the step that was just done, from 0.
            total_steps: steps of the whole training.
        """

    def train(self, mode: bool = True) -> Method:
        """As torch's, but for batch normalisations that keep their statistics (see models/batch_norm.py)."""
        super().train(mode)
        hold_statistics(self)
        return self

    def trained_modules(self) -> list[nn.Module]:
        """The modules that the optimizer trains."""
        return [self]

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images that show a person how the training goes; called in evaluation mode.

        Here they are the views; a method with more to show overrides this.

        Args:
            batch: a few images.

        Returns:
            Columns of images (n, C, S, S) by their titles, standardised as the views are. Row i of every column belongs
            to one image, and the last column is that image itself.
        """
        return {f"view {i + 1}": view for i, view in enumerate(batch.views)}

    def draws(self, batch: Batch, name: str, n: int) -> Tensor:
        """Random numbers for each view, which depend on the image and the epoch, not on batch, rank or earlier draws.

        Args:
            batch: V views of B images.
            name: what the numbers are for; other names give other numbers.
            n: numbers for each view.

        Returns:
            (V * B, n) in [0, 1): the rows of the first view, then those of the second, and so on.
        """
        rows = [uniform(fold(batch.key, name, view), batch.ids, n) for view in range(len(batch.views))]
        return sent(torch.cat(rows), batch.views.device)


def need(condition: bool, message: str) -> None:
    """Checks what a constructor was given.

    Args:
        condition: what must be true.
        message: what is wrong; it ends with what to type.

    Raises:
        UserError: when the condition is false.
    """
    if not condition:
        raise UserError(message)
