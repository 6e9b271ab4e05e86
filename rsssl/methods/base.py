"""What a self-supervised method is to the engine."""

from __future__ import annotations

from torch import Tensor, nn

from rsssl.engine.loop import Batch


class Method(nn.Module):
    """Base of all methods: a backbone, what is trained beside it, and a loss.

    A method of your own is a file like `rsssl/methods/simclr.py`: a subclass that says how many views of an image it wants
    (`n_views`) and turns them into {"loss": scalar, "embedding": (n, D), plus scalars to log}. Its YAML names the class as
    `_target_` and gives its other arguments.

    Args:
        backbone: images (B, C, S, S) to features (B, `backbone.num_features`).
        views: views of each image in a step.
    """

    def __init__(self, backbone: nn.Module, views: int = 2) -> None:
        super().__init__()
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
