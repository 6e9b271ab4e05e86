"""Optimizers, parameter groups and learning-rate schedules."""

from __future__ import annotations

from rsssl.optim.groups import freeze, layer_rates, parameter_groups
from rsssl.optim.lars import LARS
from rsssl.optim.optimizers import SGD, Adam, AdamW
from rsssl.optim.schedules import Constant, Cosine, Linear, Polyline, Schedule, Step

__all__ = [
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Polyline",
    "Schedule",
    "Step",
    "freeze",
    "layer_rates",
    "parameter_groups",
]
