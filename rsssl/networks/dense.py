"""A classifier over many overlapping windows by one pass of its backbone: the fully convolutional short cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.engine.device import autocast
from rsssl.errors import UserError
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.standardise import Standardise
from rsssl.networks.network import SceneNetwork

PENALTY = 0.3  # of `learn`, for features of mean square norm 1 (experiments/maps)


class DenseClassifier(nn.Module):
    """x (B, C, h, w) preprocessed values -> probabilities (B, rows, cols, K) of the windows of the classifier's size,
    every `stride` pixels.

    The backbone's map is made once and pooled under each window, as its own global pooling does for one tile. What
    differs from tile by tile: near its edge a tile is padded with zeros, a window within the map has its neighbours
    there instead. In small tiles all is near the edge, and the head, which knows features of tiles, takes most of these
    for something else. So `learn` gives it a linear head of its own, which repeats on places of the scene what the
    classifier says tile by tile.

    Raises:
        UserError: for a backbone that is not a convolutional map with an average over it, and a stride that does not
            fit the map.
    """

    def __init__(self, classifier: SceneNetwork, stride: int, window: int | None = None) -> None:
        """stride: in pixels of `window` pixels a window (None: the classifier's size), which is resized to that
        size."""
        super().__init__()
        window = window or classifier.size
        self.classifier, self.size = classifier, classifier.size
        advice = "leave out map.fast"
        backbone: Any = classifier.backbone
        if not hasattr(backbone, "forward_features") or not hasattr(backbone, "forward_head"):
            raise UserError(f"map.fast=true: {type(backbone).__name__} has no feature map that it averages: {advice}")
        parameter = next(backbone.parameters())
        tile = torch.randn(1, classifier.card.n_bands, self.size, self.size, generator=torch.Generator().manual_seed(0))
        tile = tile.to(parameter.device)
        try:
            with torch.inference_mode():
                small, large = backbone.forward_features(tile), backbone.forward_features(tile.repeat(1, 1, 2, 2))
                self.cells = small.shape[-1]
                same = (
                    small.ndim == 4
                    and large.shape[-1] == 2 * self.cells
                    and torch.allclose(self._pooled(small, 1)[0], backbone(tile), rtol=1e-3, atol=1e-4)
                )
        except (RuntimeError, TypeError, AssertionError, IndexError):
            same = False
        if not same:
            raise UserError(
                f"map.fast=true: the features of {type(backbone).__name__} are not the average of a convolutional "
                f"map: {advice}, or train with a ResNet or a ConvNeXt (backbone=resnet18)"
            )
        cell = self.size // self.cells
        if stride * self.size % (cell * window):
            fits = [n for n in range(1, window + 1) if n * self.size % (cell * window) == 0]
            hint = f"type map.stride={min(fits, key=lambda n: abs(n - stride))}" if fits else advice
            raise UserError(
                f"map.fast=true: a value of the backbone's map stands for {cell * window / self.size:g} pixels, and "
                f"windows every {stride} pixels do not fall on it: {hint}"
            )
        if self.size > 2 * window:
            raise UserError(
                f"map.fast=true: windows of {window} pixels are enlarged to {self.size}, and a whole block of them "
                f"would take too much memory: {advice}"
            )
        self.step = stride * self.size // (cell * window)
        assert classifier.head is not None
        self.head: nn.Module = classifier.head

    def _pooled(self, maps: Tensor, step: int) -> tuple[Tensor, tuple[int, int]]:
        """Maps (B, D, h, w) -> features (B * rows * cols, D) of the windows, and (rows, cols)."""
        means = F.avg_pool2d(maps, self.cells, step)  # (B, D, rows, cols)
        flat = means.permute(0, 2, 3, 1).reshape(-1, means.shape[1], 1, 1)
        backbone: Any = self.classifier.backbone
        return backbone.forward_head(flat, pre_logits=True), (means.shape[2], means.shape[3])

    @torch.inference_mode()
    def learn(self, regions: Tensor, batch_size: int = 64, tta: bool = False) -> None:
        """Fits the head to what the classifier says, tile by tile, about the windows of some regions (n, C, h, w).

        Ridge regression of the logits (Hinton et al. 2015, arXiv 1503.02531, section 2.1: matching logits) on
        standardised features, in the space of the N windows.
        """
        features = torch.cat([self._features(region[None])[0] for region in regions])
        stride = self.step * (self.size // self.cells)
        tiles = (
            regions.unfold(2, self.size, stride).unfold(3, self.size, stride).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        )
        shares = torch.cat([self.classifier.standardised(part, tta) for part in tiles.split(batch_size)])
        logits = shares.double().clamp_min(1e-4).log()
        logits -= logits.mean(1, keepdim=True)
        scaler = Standardise("partial").fit(features)
        x = scaler(features).double()
        mean = logits.mean(0)
        gram = x @ x.T + PENALTY * torch.eye(len(x), dtype=x.dtype, device=x.device)
        weight = x.T @ torch.linalg.solve(gram, logits - mean)  # (D, K)
        self.head = LinearHead(*scaler.unfold(weight.T, mean)).to(x.device)

    def _features(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Features (B * rows * cols, D) float32 of the windows, and (rows, cols)."""
        backbone: Any = self.classifier.backbone
        with autocast(x.device):
            features, shape = self._pooled(backbone.forward_features(x), self.step)
        return features.flatten(1).float(), shape

    def forward(self, x: Tensor) -> Tensor:
        features, (rows, cols) = self._features(x)
        return self.head(features).view(len(x), rows, cols, -1)
