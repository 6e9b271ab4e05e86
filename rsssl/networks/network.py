"""A trained network as one module: stored pixels in, class probabilities or features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.augment import symmetries
from rsssl.engine.device import autocast
from rsssl.engine.step_memory import images_at_once
from rsssl.evaluation.heads import Head
from rsssl.evaluation.trust import Trust
from rsssl.models.card import SensorCard
from rsssl.models.folded import folded
from rsssl.models.preprocess import InputLayer, Preprocess
from rsssl.models.statistics import band_statistics
from rsssl.networks.pixels import as_batch


class SceneNetwork(nn.Module):
    """A backbone with its preprocessing, and a classifier's head where it has one; in evaluation mode.

    Args:
        backbone: standardised pixels (B, C, S, S) -> features (B, D), made by `build_backbone`.
        preprocess: how stored pixels become its input.
        head: features -> class probabilities (B, K); None for a backbone alone.
        order: for images whose bands come in another order: band i of the network is band order[i] of the card.
        notes: how it was made and how good it is, as JSON.
        fingerprint: of the file it was read from.
        trust: to say what it does not know; None where nobody kept it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        preprocess: Preprocess,
        head: Head | None = None,
        order: Sequence[int] | None = None,
        notes: dict[str, Any] | None = None,
        fingerprint: str = "",
        trust: Trust | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.preprocess, self.head, self.trust = backbone, preprocess, head, trust
        self.input = InputLayer(preprocess, order)
        self.notes, self.fingerprint = notes or {}, fingerprint
        width = int(getattr(backbone, "num_features", 0))  # D
        self.unseen = width if head is not None and head.width > width and head.ignores(0, width) else 0
        self.eval()

    @property
    def kind(self) -> str:
        """ "classifier" or "backbone"."""
        return "backbone" if self.head is None else "classifier"

    @property
    def card(self) -> SensorCard:
        """What the stored numbers of its images mean."""
        return self.preprocess.card

    @property
    def size(self) -> int:
        """Pixels of a side of what the backbone sees."""
        return self.preprocess.size

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def window(self) -> int:
        """Pixels of a side of a tile as it is stored."""
        return min(self.card.size)

    @torch.no_grad()
    def forward(self, pixels: Any) -> Tensor:
        """Stored pixels to probabilities (B, K), or to features (B, D) where there is no head; float32.

        Args:
            pixels: (B, C, H, W) or one image (C, H, W), a numpy array or a tensor of stored numbers of the card's
                bands.

        Raises:
            UserError: for another number of bands, and for numbers that cannot be stored pixels.
        """
        x = as_batch(pixels, self.card).to(next(self.backbone.parameters()).device)
        return self.standardised(self.input(x))

    def standardised(self, x: Tensor, tta: bool = False) -> Tensor:
        """The same for x (B, C, S, S) that has been preprocessed; with `tta` averaged over the flips and quarter
        turns."""
        if tta:
            return torch.stack([self.standardised(view) for view in symmetries(x)]).mean(0)
        features = self.seen(x)
        if self.head is None:
            return features
        with torch.autocast(x.device.type, enabled=False):  # as evaluations do it: the head in full precision
            probabilities: Tensor = self.head(features)
        return probabilities

    def judged(self, x: Tensor, tta: bool = False) -> tuple[Tensor, Tensor]:
        """The probabilities (B, K) of preprocessed x, and how unlike they are (B, 2) to what was learnt from; see
        `Trust`."""
        assert self.head is not None and self.trust is not None
        shares, unlike = [], []
        for view in symmetries(x) if tta else [x]:
            features = self.seen(view)
            with torch.autocast(x.device.type, enabled=False):
                shares.append(self.head(features))
                unlike.append(self.trust.unlike(features))
        return torch.stack(shares).mean(0), torch.stack(unlike).mean(0)

    def folded(self) -> SceneNetwork:
        """The same in fewer steps, to look at many images with: neither to be trained nor saved. See `folded`."""
        backbone = folded(self.backbone, self.card.n_bands, self.size)
        known = self.notes, self.fingerprint, self.trust
        return SceneNetwork(backbone, self.preprocess, self.head, self.input.order, *known)

    def at_once(self, most: int | None) -> int:
        """How many tiles, `most` at most, fit into memory together; UserError when not even one does.

        None: as many as keep a CPU or an accelerator busy.
        """
        device = next(self.backbone.parameters()).device
        most = most or (64 if device.type == "cpu" else 512)
        tile = torch.zeros(1, self.card.n_bands, self.size, self.size, device=device)
        return images_at_once(self.backbone, tile, most)

    def seen(self, x: Tensor) -> Tensor:
        """What the head looks at, (B, D) float32: the features, and the bands' statistics where it has learnt from
        them too. Where it has learnt from these alone, the backbone is not asked."""
        features = x.new_zeros(len(x), self.unseen, dtype=torch.float32) if self.unseen else self.features(x)
        return beside(features, x, self.head)

    def features(self, x: Tensor) -> Tensor:
        """Preprocessed x (B, C, S, S) -> features (B, D) float32."""
        with autocast(x.device):
            return self.backbone(x).float()


def beside(features: Tensor, x: Tensor, head: Head | None) -> Tensor:
    """Features (B, D) of preprocessed x, with the bands' statistics beside them for a head that is wider."""
    if head is None or head.width == features.shape[1]:
        return features
    return torch.cat([features, band_statistics(x)], 1)
