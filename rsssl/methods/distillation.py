"""A pull towards the network as it started, for any method: its features stay readable from the trained ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method
from rsssl.methods.losses import full_precision


class Distillation(nn.Module):
    """Adds to a method's loss how badly a linear layer tells the frozen features from the trained ones.

    The features of a view, taken from the mean of the batch, are compared by their cosine (feature distillation with a
    regressor, as Romero et al. 2015, FitNets, arXiv 1412.6550, section 2.2). The layer begins as the identity. So the
    method may turn and stretch the features as it likes, and a linear classifier still finds in them what it would
    have found before.

    Args:
        method: whose backbone is as it started; it gets this module as its `distillation`.
        weight: of the added loss.
    """

    def __init__(self, method: Method, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self._frozen = [copy.deepcopy(method.backbone).requires_grad_(False)]  # in a list: not trained, not saved
        self.head = nn.Linear(method.num_features, method.num_features)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._seen: list[tuple[Tensor, Tensor]] = []  # what went through the backbone in this step, and what came out
        method.backbone.register_forward_hook(self._see)
        method.register_forward_hook(self._add)
        method.distillation = self

    def loss(self, views: Tensor, features: Tensor) -> Tensor:
        """Of views (n, C, S, S) and their features (n, D): 1 - cosine, the mean over the views of all ranks."""
        frozen = self._frozen[0].to(views.device).eval()
        with torch.no_grad():
            target = gather(frozen(views))
        return distance(gather(self.head(features)), target)

    def _see(self, backbone: nn.Module, arguments: tuple[Tensor, ...], features: Tensor) -> None:
        if torch.is_grad_enabled():
            self._seen.append((arguments[0], features))

    def _add(self, method: Method, arguments: tuple[Batch, ...], outputs: dict[str, Tensor]) -> Any:
        """One view of each image is enough. A method that calls the backbone's layers itself has it looked at now."""
        n, views = len(arguments[0].ids), arguments[0].views
        if not self._seen and torch.is_grad_enabled():
            method.backbone(views[0])
        seen, self._seen = self._seen, []
        if not seen:
            return outputs
        x, features = seen[0]
        loss = self.loss(x[:n], features[:n])
        return outputs | {"loss": outputs["loss"] + self.weight * loss, "distillation": loss}


@full_precision
def distance(told: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of features (n, D), each taken from the mean of its batch; the mean over the batch."""
    return 1 - F.cosine_similarity(told - told.mean(0), target - target.mean(0), dim=1).mean()
