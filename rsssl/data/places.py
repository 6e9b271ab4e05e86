"""Which tiles show the same place, read from how their folders are laid out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsssl.errors import UserError
from rsssl.rng import fold, hash64_numpy


def place_names(paths: Sequence[str], together: str) -> list[str]:
    """The place of each path: its folder ("folder"), or its file name without the ending ("name")."""
    if together == "folder":
        return [os.path.dirname(p) for p in paths]
    return [os.path.splitext(os.path.basename(p))[0] for p in paths]


def class_folders(paths: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether the folders that hold the images are the class folders themselves, with no folder of a place in
    between."""
    return bool(classes) and any(p.count("/") == 1 for p in paths)


class Partners:
    """For each tile another one of its place, drawn at random.

    Args:
        places: (N,) the place of each tile, as text.
        hint: ends the message when no two tiles share a place.

    Raises:
        UserError: when every tile is alone.
    """

    def __init__(self, places: Sequence[str], hint: str) -> None:
        _, number, size = np.unique(np.asarray(places), return_inverse=True, return_counts=True)
        if size.max() < 2:
            raise UserError(f"no two of the {len(number)} tiles belong together: {hint}")
        if len(size) == 1:
            raise UserError(f"all of the {len(number)} tiles are one place: {hint}")
        self.order = np.argsort(number, kind="stable")  # tiles, place by place
        start = np.cumsum(size) - size
        self.rank = np.empty(len(number), np.int64)  # of a tile among those of its place
        self.rank[self.order] = np.arange(len(number)) - start[number[self.order]]
        self.start, self.size, self.number = start[number], size[number], number

    def __call__(self, key: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A partner of each tile of ids (B,): any other of its place, equally likely; itself where it is alone."""
        others = np.maximum(self.size[ids] - 1, 1)
        step = 1 + (hash64_numpy(fold(key, "partner"), ids) % others.astype(np.uint64)).astype(np.int64)
        return self.order[self.start[ids] + (self.rank[ids] + step) % self.size[ids]]

    @property
    def alone(self) -> int:
        """Tiles without a partner."""
        return int((self.size == 1).sum())
