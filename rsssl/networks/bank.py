"""A classifier's features of a pack, kept in the store, and the probabilities that its head gives them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsssl.data.pack import Pack
from rsssl.data.pool import stored
from rsssl.engine.device import on_device, precision
from rsssl.engine.store import Store
from rsssl.errors import UserError, typed
from rsssl.evaluation.features import FeatureBank, bank_of
from rsssl.models.card import SensorCard
from rsssl.networks.network import SceneNetwork
from rsssl.networks.sensor import differences

BLOCK = 4096  # features whose classes are asked for at a time


def classifier_bank(
    classifier: SceneNetwork, pack: Pack, checkpoint: str, store: Store, device: torch.device
) -> FeatureBank:
    """The features that the classifier's head takes, of images preprocessed as it was trained.

    Args:
        classifier: with its head.
        pack: the images.
        checkpoint: where the classifier lies, for messages.
        store: where the features are kept.
        device: where they are computed.

    Raises:
        UserError: when it was trained on another sensor than the pack's.
    """
    refuse_other_sensor(classifier.card, pack.card, checkpoint)
    on_device(classifier, device)

    @torch.inference_mode()
    def extract(rows: np.ndarray) -> Tensor:
        return classifier.seen(classifier.input(stored(pack, rows, device)))

    inputs = {"classifier": classifier.fingerprint, "pixels": pack.fingerprint, "precision": precision(device)}
    return bank_of(store, pack, inputs, {"network": f"the classifier {checkpoint}"}, extract, "features")


def refuse_other_sensor(trained: SensorCard, card: SensorCard, checkpoint: str) -> None:
    """Raises UserError where a dataset's images are not such as the classifier was trained on."""
    different = differences(trained, card)
    if not different:
        return
    keys = []
    if [b.lower() for b in trained.bands] != [b.lower() for b in card.bands]:
        keys.append(f"'dataset.select=[{','.join(trained.bands)}]'")
    elif (trained.low, trained.high) != (card.low, card.high):
        pairs = ",".join(f"[{low!r},{high!r}]" for low, high in zip(trained.low, trained.high, strict=True))
        keys.append(f"'dataset.valid_range=[{pairs}]' where the numbers mean the same")
    raise UserError(
        f"{typed('checkpoint', checkpoint)} was trained on other images than those of {card.name}: "
        f"{'; '.join(different)}. Type {' or '.join([*keys, 'another checkpoint=DIR'])}"
    )


@torch.inference_mode()
def class_probabilities(classifier: SceneNetwork, features: Tensor) -> Tensor:
    """Features (N, D) -> class probabilities (N, K), on the CPU."""
    assert classifier.head is not None
    head = classifier.head.cpu()
    return torch.cat([head(block) for block in features.split(BLOCK)])
