"""Backbones for any number of bands, their weights files, heads, and the sensor card (which needs no torch)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsssl.models.backbone import build_backbone, describe_backbone, read_backbone, save_backbone
    from rsssl.models.batch_norm import recalibrate
    from rsssl.models.decoder import Decoder
    from rsssl.models.ema import MovingAverage
    from rsssl.models.heads import projector
    from rsssl.models.maps import backbone_maps, feature_maps, in_chans, patch_side
    from rsssl.models.weights import Match, load_weights

__all__ = [
    "Decoder",
    "Match",
    "MovingAverage",
    "backbone_maps",
    "build_backbone",
    "describe_backbone",
    "feature_maps",
    "in_chans",
    "load_weights",
    "patch_side",
    "projector",
    "read_backbone",
    "recalibrate",
    "save_backbone",
]

_HOME = {
    "backbone_maps": "maps",
    "Decoder": "decoder",
    "Match": "weights",
    "MovingAverage": "ema",
    "build_backbone": "backbone",
    "describe_backbone": "backbone",
    "feature_maps": "maps",
    "in_chans": "maps",
    "read_backbone": "backbone",
    "load_weights": "weights",
    "patch_side": "maps",
    "projector": "heads",
    "recalibrate": "batch_norm",
    "save_backbone": "backbone",
}


def __getattr__(name: str) -> Any:
    # Late, so that the workers that pack images with a rsssl.models.card do not wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"rsssl.models.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
