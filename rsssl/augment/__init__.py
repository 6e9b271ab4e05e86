"""Batched augmentation for any number of bands: operations, policies of them, and views of stored images."""

from __future__ import annotations

from rsssl.augment.blur import Blur
from rsssl.augment.colour import BandGain, Colour, Grayscale
from rsssl.augment.geometry import RandomAreaCrop, Resize, Symmetry, symmetries
from rsssl.augment.ops import Operation, PixelOperation
from rsssl.augment.policy import Policy
from rsssl.augment.views import Local, Views, prepare, to_unit

__all__ = [
    "BandGain",
    "Blur",
    "Colour",
    "Grayscale",
    "Local",
    "Operation",
    "PixelOperation",
    "Policy",
    "RandomAreaCrop",
    "Resize",
    "Symmetry",
    "Views",
    "prepare",
    "symmetries",
    "to_unit",
]
