"""Values that mean "nothing here" though no file says so: the white or black frame around a scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsssl.data.scene_file import SceneFile
from rsssl.errors import UserError
from rsssl.rng import permutation

SHARE, ALL = 0.01, 0.95  # of a scene, from which on a frame is told, and up to which it is one
NARROW = 16  # pixels of a side: in what is narrower all is near the edge
SIDE = 1024  # pixels a side that a scene is thinned out to
STEP = 16  # a scene that would have to be thinned out more is looked at in spots: reading it whole takes too long
SPOTS, SPOT = 1000, 4  # spots inside and on the edge, of so many pixels a side
_frames: dict[str, float | None] = {}  # of the scenes that this process has looked at


def refuse_frame(scene: SceneFile, given: Any, key: str) -> None:
    """Raises UserError where a scene has a frame and nobody has said what it means.

    Args:
        scene: with all its bands in use.
        given: what was typed for the key: None, "none", or a number.
        key: that says which value means nothing.
    """
    if given is not None:
        return
    looked_at = repr((scene.fingerprint(), scene.bands, [sorted(set(values)) for values in scene.nodata]))
    if looked_at not in _frames:
        _frames[looked_at] = frame_of(scene)
    value = _frames[looked_at]
    if value is not None:
        raise UserError(
            f"{scene.path} has a frame of {value:g} in all bands, and does not say whether that means anything: type "
            f"{key}={value:g} if nothing was seen there, or {key}=none if it is a value like others"
        )


def as_number(given: Any, key: str) -> float | None:
    """The value that was typed; None for none.

    Raises:
        UserError: for what is no number.
    """
    if given is None or str(given).lower() == "none":
        return None
    try:
        return float(given)
    except (TypeError, ValueError):
        raise UserError(f"{key}={given} is no number: type for example {key}=0, or {key}=none") from None


def frame_of(scene: SceneFile) -> float | None:
    """The value that all bands have in a part of the scene that touches its edge.

    That part is over a hundredth of the scene, the value the least or largest of all, and not nodata already. Of a
    scene of one band only 0 and the largest value of its type count.
    """
    h, w = scene.size
    if min(h, w) < NARROW:
        return None
    step = -(-max(h, w) // SIDE)
    if step > STEP:
        return _frame_in_spots(scene)
    part = scene.part(0, 0, w, h, (-(-h // step), -(-w // step)))
    flat = _flat(part.values, part.missing)
    edge = np.concatenate([flat[0], flat[-1], flat[:, 0], flat[:, -1]])
    values, counts = np.unique(edge[np.isfinite(edge)], return_counts=True)
    bounds = part.values[np.isfinite(part.values)]
    for value in values[np.argsort(-counts)][:3]:
        if _extreme(scene, value, bounds.min(), bounds.max()) and SHARE < _from_the_edge(flat == value).mean() < ALL:
            return float(value)
    return None


def _flat(values: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """(h, w) the value that all bands (C, h, w) have, NaN where they differ or have none."""
    same = (values == values[0]).all(0)
    if missing is not None:
        same &= ~missing.any(0)
    return np.where(same, values[0].astype(np.float64), np.nan)


def _extreme(scene: SceneFile, value: float, least: float, largest: float) -> bool:
    """Whether a value can mean nothing: the least or largest of a scene that several bands share; of one band 0 or the
    largest of its type."""
    if len(scene.bands) > 1:
        return value <= least or value >= largest
    return value in (0, np.iinfo(scene.dtype).max if scene.dtype != "float32" else np.inf)


def _from_the_edge(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask (h, w) that touch its edge."""
    reached = np.zeros_like(mask)
    for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        reached[side] = mask[side]
    while True:
        before = int(reached.sum())
        for axis in (0, 1):
            for flip in (False, True):
                seen, open_ = (np.flip(a, axis) if flip else a for a in (reached, mask))
                _sweep(np.moveaxis(seen, axis, 0), np.moveaxis(open_, axis, 0))
        if int(reached.sum()) == before:
            return reached


def _sweep(seen: np.ndarray, open_: np.ndarray) -> None:
    """Carries `seen` along the first axis through what is open, in place."""
    for i in range(1, len(seen)):
        seen[i] |= seen[i - 1] & open_[i]


def _frame_in_spots(scene: SceneFile) -> float | None:
    """The same from small spots: on the edge, and all over the scene."""
    h, w = scene.size
    n = SPOTS // 4
    edge = [(y, x) for a in np.linspace(0, 1, n) for y, x in ((0, a), (1, a), (a, 0), (a, 1))]
    inner = zip(*(permutation(seed, SPOTS) / SPOTS for seed in (1, 2)), strict=True)
    seen, inside = (
        [scene.part(int(x * (w - SPOT)), int(y * (h - SPOT)), SPOT, SPOT) for y, x in spots] for spots in (edge, inner)
    )
    around, within = (np.concatenate([_flat(p.values, p.missing).ravel() for p in parts]) for parts in (seen, inside))
    values, counts = np.unique(around[np.isfinite(around)], return_counts=True)
    if not len(values) or counts.max() < SHARE * len(around):
        return None
    value, share = float(values[counts.argmax()]), (within == values[counts.argmax()]).mean()
    every = np.concatenate([p.values.ravel() for p in (*seen, *inside)])
    bounds = every[np.isfinite(every)]
    return value if _extreme(scene, value, bounds.min(), bounds.max()) and SHARE < share < ALL else None
