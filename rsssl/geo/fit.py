"""Whether the values of a scene are those that a classifier was trained on, and what makes them so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsssl.errors import UserError
from rsssl.models.card import SensorCard

if TYPE_CHECKING:
    from rsssl.data.scene_file import Window
    from rsssl.geo.scene import Scene

THIN = 2048  # pixels a side of a scene that is looked at whole
SAMPLES, SAMPLE = 10, 128  # the values are looked at in 10 x 10 places of so many pixels a side
FAR = 5.0  # a band does not fit when its mean is that many standard deviations off,
CLIPPED = 0.5  # or that share of its pixels lies outside the valid range


def fit(scene: Scene, values: str | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Compares a scene with its sensor card.

    Args:
        scene: of which a sample is read.
        values: what to do with values that do not fit, see `Scene`.

    Returns:
        The factor (C, 1, 1) and what is then added, for values="moments"; else None twice.

    Raises:
        UserError: when the values do not fit, with the difference and what to type.
    """
    card = scene.card
    if values is None and scene.dtype != card.dtype:
        raise UserError(
            f"{scene.path} holds {scene.dtype}, the classifier was trained on {card.dtype} ({card.name}). If the "
            "numbers "
            "mean the same, type values=cast; to shift and scale each band to what the classifier has seen, type "
            "values=moments"
        )
    mean, std, clipped = _moments(scene)
    low, high = np.array(card.low), np.array(card.high)
    centre, spread = low + np.array(card.mean) * (high - low), np.array(card.std) * (high - low)
    if values == "moments":
        gain = np.where(std > 0, spread / np.where(std > 0, std, 1), 1.0)
        mean = np.where(np.isnan(mean), centre, mean)  # a band of nothing but nodata
        offset = centre - mean * gain
        return gain.astype(np.float32)[:, None, None], offset.astype(np.float32)[:, None, None]
    off = (np.abs(mean - centre) > FAR * spread) | (clipped > CLIPPED)  # False for NaN: nothing to judge by
    if off.any():
        lines = [
            f"  {card.bands[b]}: the scene's mean is {mean[b]:.6g}, the training's {centre[b]:.6g} +- {spread[b]:.3g}; "
            f"{100 * clipped[b]:.0f} % lies outside {low[b]:g}..{high[b]:g}"
            for b in np.flatnonzero(off)
        ]
        raise UserError(
            f"the values of {scene.path} are not those the classifier was trained on ({card.name}):\n"
            + "\n".join(lines)
            + "\nChoose other bands with bands=[...], or type values=moments to shift and scale each band"
        )
    return None, None


def _moments(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per band: mean, std, and the share of valid pixels outside the card's range; NaN for a band without valid pixels.

    They are of places spread over the scene; where these have no valid pixels, of the whole scene, thinned out.
    """
    h, w = scene.size
    side_y, side_x = min(SAMPLE, h), min(SAMPLE, w)
    ys, xs = (np.unique(np.linspace(0, n, SAMPLES).astype(int)).tolist() for n in (h - side_y, w - side_x))
    sums = np.zeros((4, scene.card.n_bands))
    for y in ys:
        for x in xs:
            sums += _sums(scene.part(x, y, side_x, side_y), scene.card)
    if (sums[0] == 0).any():
        sums = _sums(scene.part(0, 0, w, h, (min(h, THIN), min(w, THIN))), scene.card)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[1] / sums[0]
        return mean, np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0)), sums[3] / sums[0]


def _sums(part: Window, card: SensorCard) -> np.ndarray:
    """(4, C): valid pixels, their sum, that of their squares, and how many lie outside the card's range."""
    low, high = (np.array(v)[:, None] for v in (card.low, card.high))
    valid = np.ones(part.values.shape, bool) if part.missing is None else ~part.missing
    if part.outside is not None:
        valid &= ~part.outside
    valid = valid.reshape(len(valid), -1)
    values = np.where(valid, part.values.reshape(valid.shape).astype(np.float64), 0)
    beyond = ((values < low) | (values > high)) & valid
    return np.array([valid.sum(1), values.sum(1), (values**2).sum(1), beyond.sum(1)], np.float64)
