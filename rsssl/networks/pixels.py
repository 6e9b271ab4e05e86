"""Arrays as people hand them over, checked as files are: what cannot be stored pixels of the sensor is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl.errors import UserError
from rsssl.models.card import SensorCard

OUTSIDE = 0.9  # the share of a band's values outside its valid range that cannot be right


def as_batch(pixels: Any, card: SensorCard) -> Tensor:
    """Stored pixels as a tensor (B, C, H, W).

    Args:
        pixels: (B, C, H, W) or one image (C, H, W); a numpy array, a tensor or nested lists.
        card: of the network that will see them.

    Raises:
        UserError: for another shape or number of bands, floats of 0..1 where the sensor stores integers, and a band of
            which most values lie outside its valid range.
    """
    try:
        x = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    except (TypeError, ValueError) as error:
        raise UserError(f"these are no pixels ({error}): {expected(card)}") from error
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4 or x.shape[1] != card.n_bands:
        hint = " with the bands first: move them, array.transpose(2, 0, 1)" if x.shape[-1] == card.n_bands else ""
        raise UserError(f"an array of shape {tuple(pixels_shape(pixels))} was given{hint}; {expected(card)}")
    if x.dtype == torch.bool or x.is_complex():
        raise UserError(f"an array of {x.dtype} was given; {expected(card)}")
    if x.numel():
        _check_values(x, card)
    return x


def pixels_shape(pixels: Any) -> tuple[int, ...]:
    """The shape of an array, a tensor or nested lists."""
    return tuple(np.shape(pixels))


def expected(card: SensorCard) -> str:
    """What an array has to be, as the end of a message."""
    return (
        f"type network(pixels) with pixels (B, {card.n_bands}, H, W) as they are stored, {card.dtype} "
        f"({', '.join(card.bands)})"
    )


def _check_values(x: Tensor, card: SensorCard) -> None:
    if x.is_floating_point() and card.dtype != "float32":
        known = x[~x.isnan()]
        if known.numel() and known.min() >= 0 and known.max() <= 1 and (known != known.round()).any():
            top = max(card.high)
            raise UserError(
                f"floats of 0 to 1 were given, and this sensor stores {card.dtype} up to {top:g}: give the pixels as "
                f"they are stored, for example (array * {top:g}).round().astype({card.dtype!r})"
            )
    values = x.detach().to("cpu", torch.float64).transpose(0, 1).flatten(1)  # (C, n)
    low, high = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (card.low, card.high))
    outside = (values < low) | (values > high)
    if card.nodata is not None:
        outside &= values != card.nodata
    for name, share, a, b in zip(card.bands, outside.double().mean(1).tolist(), card.low, card.high, strict=True):
        if share > OUTSIDE:
            raise UserError(
                f"{100 * share:.0f} % of the values of band {name} lie outside its valid range, {a:g} to {b:g}: "
                f"{expected(card)}"
            )
