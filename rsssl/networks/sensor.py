"""A backbone as one module that takes pixels as they are stored, and what becomes of it under another sensor."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.models.weights import ADAPT, adapt_bands

WAYS = ("match", *ADAPT)


class SceneBackbone(nn.Module):
    """x (B, C, H, W) stored pixels of the sensor card's bands, any numeric type -> features (B, D) float32.

    Attributes: card (`SensorCard`), size (pixels the backbone sees), backbone (alone: standardised pixels to features).
    """

    def __init__(
        self, backbone: nn.Module, card: SensorCard, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone, self.card, self.size = backbone, card, size
        self.preprocess = Preprocess(card, size, mean, std)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(self.preprocess(x))

    def standardised(self, x: Tensor) -> Tensor:
        """The same for x (B, C, S, S) that has been preprocessed."""
        return self.backbone(x)


class Reordered(Preprocess):
    """`Preprocess` of images whose bands come in another order: band i is the image's band order[i]."""

    def __init__(
        self, card: SensorCard, size: int, mean: tuple[float, ...], std: tuple[float, ...], order: list[int]
    ) -> None:
        super().__init__(card, size, mean, std)
        self.order = order

    def scale(self, x: Tensor) -> Tensor:
        return super().scale(x[:, self.order])


class Scene(Protocol):
    """What `for_sensor` needs of a network: `SceneBackbone` and `SceneClassifier` have it."""

    backbone: nn.Module
    card: SensorCard
    size: int
    preprocess: Preprocess


Network = TypeVar("Network", bound=Scene)


def differences(own: SensorCard, card: SensorCard) -> list[str]:
    """In what a sensor differs from the one the weights were trained on, a sentence each: bands, dtype, valid range."""
    found = []
    names, wanted = _names(card), _names(own)
    if names != wanted:
        same = " in another order" if sorted(names) == sorted(wanted) else ""
        found.append(
            f"the weights take the bands {', '.join(own.bands)} and the card has {', '.join(card.bands)}{same}"
        )
    if card.dtype != own.dtype:
        found.append(f"the weights take {own.dtype} and the card says {card.dtype}")
    if sorted(names) == sorted(wanted):
        order = [names.index(b) for b in wanted]
        for i, k in enumerate(order):
            if (own.low[i], own.high[i]) != (card.low[k], card.high[k]):
                found.append(
                    f"{own.bands[i]} goes from {own.low[i]:g} to {own.high[i]:g} for the weights and from {card.low[k]:g} to "
                    f"{card.high[k]:g} on the card"
                )
    return found


def for_sensor(network: Network, card: SensorCard, adapt: str | None, origin: str) -> Network:
    """The network for images of the sensor that `card` describes; the network given is changed.

    Where bands, dtype and valid range agree only nodata is taken from the card. Else `adapt` says what to do:

    "match": the same bands in any order; they are put into the weights' order and scaled by the card's valid range. The network
        stays as it is, and so do the mean and std that it was trained with.
    "mean", "tile", "random": any bands. The first convolution is carried over by `adapt_bands` ("random" starts it anew), values
        are scaled and standardised by the card's own range, mean and std. Such a network needs training, or at least a test.

    Raises:
        UserError: for a difference that `adapt` does not allow. origin: the weights' place, for the message.
    """
    own, pre = network.card, network.preprocess
    if adapt is not None and adapt not in WAYS:
        raise UserError(f"adapt={adapt!r} is unknown: type adapt={' or adapt='.join(map(repr, WAYS))}")
    found = differences(own, card)
    if not found:
        network.card = dataclasses.replace(own, nodata=card.nodata)
        network.preprocess = Preprocess(network.card, network.size, pre.mean, pre.std)
        return network
    said = f"{origin} was trained on another sensor: {'; '.join(found)}"
    alike = sorted(_names(own)) == sorted(_names(card))
    if adapt is None:
        way = "adapt='match' to read the bands by name and the values by this card's range"
        if not alike:
            way = "adapt='mean', adapt='tile' or adapt='random' to carry the first convolution over, and test what comes of it"
        raise UserError(f"{said}. Leave out card=, or type {way}")
    if adapt == "match":
        if not alike:
            raise UserError(
                f"{said}. The bands cannot be matched by name: type adapt='mean', adapt='tile' or adapt='random'"
            )
        order = [_names(card).index(b) for b in _names(own)]
        picked: dict[str, Any] = {
            k: tuple(getattr(card, k)[i] for i in order) for k in ("bands", "low", "high", "mean", "std")
        }
        network.preprocess = Reordered(dataclasses.replace(card, **picked), network.size, pre.mean, pre.std, order)
    else:
        network.backbone = with_bands(network.backbone, card.n_bands, adapt).eval()
        network.preprocess = Preprocess(card, network.size, card.mean, card.std)
    network.card = dataclasses.replace(card, classes=own.classes)
    return network


def with_bands(backbone: nn.Module, bands: int, how: str) -> nn.Module:
    """A copy of a backbone of `build_backbone` for another number of bands, its first convolution by `how` (ADAPT)."""
    spec = copy.deepcopy(backbone.spec) | {"in_chans": bands}  # type: ignore[operator]
    made = build_backbone(**spec)
    state = dict(backbone.state_dict())
    first = next(name for name, p in backbone.named_parameters() if p.ndim == 4)  # as rsssl.models.maps.in_chans
    with torch.no_grad():
        state[first] = made.state_dict()[first] if how == "random" else adapt_bands(state[first], bands, how)
    made.load_state_dict(state, strict=True)
    return made


def _names(card: SensorCard) -> list[str]:
    return [b.lower() for b in card.bands]
