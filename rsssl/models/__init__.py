"""Backbones for any number of bands, their weights files, heads, and the sensor card (which needs no torch)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsssl.models.backbone import build_backbone, describe_backbone, load_backbone, save_backbone
    from rsssl.models.heads import projector
    from rsssl.models.weights import Match, load_weights

__all__ = [
    "Match",
    "build_backbone",
    "describe_backbone",
    "load_backbone",
    "load_weights",
    "projector",
    "save_backbone",
]

_HOME = {
    "Match": "weights",
    "build_backbone": "backbone",
    "describe_backbone": "backbone",
    "load_backbone": "backbone",
    "load_weights": "weights",
    "projector": "heads",
    "save_backbone": "backbone",
}


def __getattr__(name: str) -> Any:
    # Late, so that the workers that pack images with a rsssl.models.card do not wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"rsssl.models.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
