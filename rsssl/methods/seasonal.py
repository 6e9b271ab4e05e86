"""Seasonal contrast: the positive of a tile is the same place at another time."""

from __future__ import annotations

from typing import Any

from torch import nn

from rsssl.methods.base import need
from rsssl.methods.simclr import SimCLR


class Seasonal(SimCLR):
    """SimCLR whose odd views show another tile of the same place, after SeCo (Manas et al. 2021, arXiv 2103.16607).

    Which tiles show the same place is read from their paths: with `together="folder"` those in one folder
    (place_17/2020-01.tif, place_17/2020-07.tif), with "name" those of one file name (2020-01/place_17.tif,
    2020-07/place_17.tif). A tile that is the only one of its place is its own positive, by two crops of it.

    Args:
        backbone: images to features.
        together: "folder" or "name".
        options: the other arguments of SimCLR.
    """

    def __init__(self, backbone: nn.Module, together: str, **options: Any) -> None:
        super().__init__(backbone, **options)
        known = together in ("folder", "name")
        need(known, f"ssl.together={together} is unknown: type ssl.together=folder or ssl.together=name")
        self.together = together
