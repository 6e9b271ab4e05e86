"""What every task needs: its run folder, the names of the chosen options, and where its records go."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import rsssl
from rsssl.engine.files import explain_os_error, sha256, write_atomic
from rsssl.engine.store import digest

NOT_IN_THE_HASH = ("paths", "tracker", "device", "compile", "workers", "processes", "timeout")


def run_folder() -> Path:
    """This job's output folder (hydra.run.dir, or its place in the sweep)."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    return folder


def group_name(group: str) -> str:
    """The option chosen for a group, e.g. "simclr" for `ssl`."""
    return str(HydraConfig.get().runtime.choices.get(group))


def config_hash(cfg: DictConfig) -> str:
    """Of everything in the config that can change a result."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return digest({str(k): v for k, v in content.items() if k not in NOT_IN_THE_HASH})


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The resolved config, as YAML text, beside the results."""
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())


def keep_metrics(source: Path, folder: Path) -> None:
    """Puts a training's metrics.csv, TensorBoard events and pictures into the run folder too, where people look for them."""
    if (source / "metrics.csv").is_file():
        shutil.copy(source / "metrics.csv", folder / "metrics.csv")
    for name in ("tensorboard", "pictures"):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)


def versions() -> dict[str, str]:
    """The versions that results were made with. timm is asked by its metadata: a cached evaluation does not import it."""
    from importlib.metadata import version

    import numpy
    import torch

    return {
        "rsssl": rsssl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": numpy.__version__,
    }


def plain(node: Any) -> dict[str, Any]:
    """A config node as a resolved dict."""
    content = OmegaConf.to_container(node, resolve=True)
    assert isinstance(content, dict)
    return {str(k): v for k, v in content.items()}


def canonical(node: Any) -> Any:
    """A config without the files that our own classes lie in: moving a class to another file does not change what it computes."""
    if isinstance(node, list):
        return [canonical(child) for child in node]
    if not isinstance(node, dict):
        return node
    content = {k: canonical(v) for k, v in node.items()}
    target = content.get("_target_")
    if isinstance(target, str) and target.startswith("rsssl."):
        room, name = target.split(".")[1], target.rpartition(".")[2]
        content["_target_"] = f"rsssl.{room}.{name}"
    return content


def own_code(node: Any) -> dict[str, str]:
    """The classes named by `_target_` that are the user's own, with a hash of their file: an edit is another method."""
    if isinstance(node, dict):
        found = {k: v for child in node.values() for k, v in own_code(child).items()}
        target = node.get("_target_")
        if isinstance(target, str) and target.split(".")[0] not in ("rsssl", "torch", "torchvision", "timm"):
            spec = importlib.util.find_spec(target.rpartition(".")[0])
            if spec and spec.origin and Path(spec.origin).is_file():
                found[target] = sha256(Path(spec.origin).read_bytes())
        return found
    return {k: v for child in node for k, v in own_code(child).items()} if isinstance(node, list) else {}


def option(cfg: DictConfig, group: str, name: str) -> dict[str, Any]:
    """What `group=name` composes to, with this run's paths: a second dataset, or the augmentation of fine-tuning."""
    other = compose("config", [f"{group}={name}"])
    other.paths = cfg.paths
    return plain(other[group])
