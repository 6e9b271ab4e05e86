"""Self-supervised pre-training and few-label scene classification for Earth observation."""

from rsssl.api import (
    dataset,
    evaluate,
    features,
    load_backbone,
    load_classifier,
    map,
    predict,
    pretrain,
    run,
)
from rsssl.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "dataset",
    "evaluate",
    "features",
    "load_backbone",
    "load_classifier",
    "map",
    "predict",
    "pretrain",
    "run",
]
