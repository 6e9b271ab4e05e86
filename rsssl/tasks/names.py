"""What an evaluation is called in results and tables: its method, its network, and what it trains."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from rsssl.evaluation.finetune import NetworkTraining
from rsssl.tasks.common import group_name
from rsssl.tasks.pretrain import LARGEST
from rsssl.tasks.weights import Weights


def network_name(weights: Weights, native: int) -> str:
    """The backbone's name and what else tells networks apart, so that a table does not take one's random start for another's."""
    spec = weights.backbone
    words = [spec["name"], *(f"{k}={v}" for k, v in sorted(spec["kwargs"].items()))]
    words += [f"depths={spec['depths']}"] if spec.get("depths", 1) != 1 else []
    words += [f"at {weights.size} px"] if weights.size != min(native, LARGEST) else []
    return " ".join(words)


def is_network(cfg: DictConfig) -> bool:
    return isinstance(instantiate(cfg.evaluate, _convert_="all"), NetworkTraining)


def from_scratch(cfg: DictConfig) -> bool:
    return is_network(cfg) and cfg.evaluate.start == "random"


def method_name(cfg: DictConfig) -> str:
    if cfg.checkpoint:
        return f"checkpoint {Path(cfg.checkpoint).name}"
    if cfg.ssl.get("_target_") is None and (cfg.backbone.pretrained or cfg.backbone.weights):
        return "imagenet" if cfg.backbone.pretrained else f"weights {Path(cfg.backbone.weights).name}"
    return group_name("ssl")
