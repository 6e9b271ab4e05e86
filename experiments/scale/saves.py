"""Checkpoints of ResNet-18 and ResNet-50 with AdamW: their size, and how long a save stops training and disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rsssl.engine.checkpoint import Checkpoints
from rsssl.models.backbone import build_backbone


def state_of(name: str) -> tuple[int, dict[str, Any]]:
    """Parameters, and what a checkpoint holds: weights and both moments of AdamW, after one step."""
    model = build_backbone(name, 3)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {"step": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return sum(p.numel() for p in model.parameters()), state


def measure(quick: bool, folder: Path, advance: Callable[[float, str], None]) -> dict[str, Any]:
    found = {}
    names = ("resnet18",) if quick else ("resnet18", "resnet50")
    for name in names:
        parameters, state = state_of(name)
        checkpoints = Checkpoints(folder / name)
        held, whole = [], []
        for step in range(1 if quick else 5):
            start = time.perf_counter()
            checkpoints.save(step, state)
            held.append(time.perf_counter() - start)
            checkpoints.wait()
            whole.append(time.perf_counter() - start)
        size = max(file.stat().st_size for file in (folder / name).glob("*.pt"))
        start = time.perf_counter()
        checkpoints.load()
        found[name] = {
            "parameters": parameters,
            "MB": size / 1e6,
            "held_seconds": statistics.median(held),
            "save_seconds": statistics.median(whole),
            "load_seconds": time.perf_counter() - start,
        }
        advance(1 / len(names), f"checkpoints: {name}")
    return found
