"""What becomes of a network under another sensor than the one it was trained on."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.models.weights import ADAPT, adapt_bands
from rsssl.networks.network import SceneNetwork

WAYS = ("match", *ADAPT)


def differences(trained: SensorCard, card: SensorCard) -> list[str]:
    """In what a sensor differs from the one the weights were trained on, a sentence each: bands, dtype, valid range."""
    sentences = []
    names, wanted = _names(card), _names(trained)
    if names != wanted:
        same = " in another order" if sorted(names) == sorted(wanted) else ""
        sentences.append(
            f"the weights take the bands {', '.join(trained.bands)} and the card has {', '.join(card.bands)}{same}"
        )
    if card.dtype != trained.dtype:
        sentences.append(f"the weights take {trained.dtype} and the card says {card.dtype}")
    if sorted(names) == sorted(wanted):
        for i, k in enumerate(names.index(b) for b in wanted):
            if (trained.low[i], trained.high[i]) != (card.low[k], card.high[k]):
                sentences.append(
                    f"{trained.bands[i]} goes from {trained.low[i]:g} to {trained.high[i]:g} for the weights and from "
                    f"{card.low[k]:g} to {card.high[k]:g} on the card"
                )
    return sentences


def for_sensor(network: SceneNetwork, card: SensorCard, adapt: str | None, origin: str) -> SceneNetwork:
    """The network for images of the sensor that `card` describes.

    Where bands, dtype and valid range agree only nodata is taken from the card. Else `adapt` says what to do:

    "match": the same bands in any order; they are put into the weights' order and scaled by the card's valid range. The
        network stays as it is, and so do the mean and std that it was trained with.
    "mean", "tile", "random": any bands. The first convolution is carried over by `adapt_bands` ("random" starts it
        anew), values are scaled and standardised by the card's own range, mean and std. Such a network needs training,
        or at least a test.

    Args:
        network: as it was trained.
        card: of the images to come.
        adapt: see above; None to refuse any difference.
        origin: where the weights lie, for the message.

    Raises:
        UserError: for a difference that `adapt` does not allow.
    """
    trained, pre = network.card, network.preprocess
    if adapt is not None and adapt not in WAYS:
        raise UserError(f"adapt={adapt!r} is unknown: type adapt={' or adapt='.join(map(repr, WAYS))}")

    def with_input(backbone: nn.Module, preprocess: Preprocess, order: list[int] | None = None) -> SceneNetwork:
        return SceneNetwork(backbone, preprocess, network.head, order, network.notes, network.fingerprint)

    different = differences(trained, card)
    if not different:
        return with_input(network.backbone, pre.of(dataclasses.replace(trained, nodata=card.nodata)))
    message = f"{origin} was trained on another sensor: {'; '.join(different)}"
    alike = sorted(_names(trained)) == sorted(_names(card))
    if adapt is None:
        way = "adapt='match' to read the bands by name and the values by this card's range"
        if not alike:
            way = (
                "adapt='mean', adapt='tile' or adapt='random' to carry the first convolution over, and test the result"
            )
        raise UserError(f"{message}. Leave out card=, or type {way}")
    labelled = dataclasses.replace(card, classes=trained.classes)
    if adapt == "match":
        if not alike:
            raise UserError(
                f"{message}. The bands cannot be matched by name: type adapt='mean', adapt='tile' or adapt='random'"
            )
        order = [_names(card).index(b) for b in _names(trained)]
        return with_input(network.backbone, pre.of(labelled), order)
    backbone = with_bands(network.backbone, card.n_bands, adapt)
    return with_input(backbone, Preprocess(labelled, network.size, card.mean, card.std))


def with_bands(backbone: nn.Module, bands: int, how: str) -> nn.Module:
    """A copy of a backbone of `build_backbone` for another number of bands, its first convolution by `how` (ADAPT)."""
    spec = copy.deepcopy(backbone.spec) | {"in_chans": bands}  # type: ignore[operator]
    adapted = build_backbone(**spec)
    state = dict(backbone.state_dict())
    first = next(name for name, p in backbone.named_parameters() if p.ndim == 4)  # as rsssl.models.maps.in_chans
    with torch.no_grad():
        state[first] = adapted.state_dict()[first] if how == "random" else adapt_bands(state[first], bands, how)
    adapted.load_state_dict(state, strict=True)
    return adapted


def _names(card: SensorCard) -> list[str]:
    return [b.lower() for b in card.bands]
