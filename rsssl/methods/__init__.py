"""Self-supervised methods, one file each, on one small base."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsssl.methods.base import Method

if TYPE_CHECKING:
    from rsssl.methods.barlow_twins import BarlowTwins
    from rsssl.methods.byol import BYOL
    from rsssl.methods.colorization import Colorization
    from rsssl.methods.dino import DINO
    from rsssl.methods.inpainting import Inpainting
    from rsssl.methods.jigsaw import Jigsaw
    from rsssl.methods.mae import MAE
    from rsssl.methods.marta_gan import MartaGAN
    from rsssl.methods.moco_v2 import MoCoV2
    from rsssl.methods.moco_v3 import MoCoV3
    from rsssl.methods.nnclr import NNCLR
    from rsssl.methods.relative_position import RelativePosition
    from rsssl.methods.rotation import Rotation
    from rsssl.methods.seasonal import Seasonal
    from rsssl.methods.simclr import SimCLR
    from rsssl.methods.simmim import SimMIM
    from rsssl.methods.simsiam import SimSiam
    from rsssl.methods.swav import SwAV
    from rsssl.methods.vicreg import VICReg

_HOME = {
    "BYOL": "byol",
    "BarlowTwins": "barlow_twins",
    "Colorization": "colorization",
    "DINO": "dino",
    "Inpainting": "inpainting",
    "Jigsaw": "jigsaw",
    "MAE": "mae",
    "MartaGAN": "marta_gan",
    "MoCoV2": "moco_v2",
    "MoCoV3": "moco_v3",
    "NNCLR": "nnclr",
    "RelativePosition": "relative_position",
    "Rotation": "rotation",
    "Seasonal": "seasonal",
    "SimCLR": "simclr",
    "SimMIM": "simmim",
    "SimSiam": "simsiam",
    "SwAV": "swav",
    "VICReg": "vicreg",
}

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "NNCLR",
    "BarlowTwins",
    "Colorization",
    "Inpainting",
    "Jigsaw",
    "MartaGAN",
    "Method",
    "MoCoV2",
    "MoCoV3",
    "RelativePosition",
    "Rotation",
    "Seasonal",
    "SimCLR",
    "SimMIM",
    "SimSiam",
    "SwAV",
    "VICReg",
]


def __getattr__(name: str) -> Any:
    # Late: a run imports the one method it uses.
    if name in _HOME:
        return getattr(importlib.import_module(f"rsssl.methods.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
