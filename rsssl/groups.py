"""Which options each config group has: the YAML files of the package and of the user's own folder. No Hydra, no
torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

GROUPS = (
    "task",
    "dataset",
    "backbone",
    "start",
    "ssl",
    "augment",
    "optimizer",
    "schedule",
    "evaluate",
    "tracker",
    "experiment",
)


def group_options(group: str, config_dir: str | Path | None = None) -> list[str]:
    """Names of the options of `group`, those in sub-folders as sub/name, sorted."""
    roots: list[Traversable] = [resources.files("rsssl.conf")]
    if config_dir:
        roots.append(Path(config_dir))
    return sorted({name for root in roots for name in yaml_names(root.joinpath(group))})


def yaml_names(folder: Traversable, prefix: str = "") -> list[str]:
    names: list[str] = []
    for entry in folder.iterdir() if folder.is_dir() else []:
        if entry.is_dir():
            names += yaml_names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            names.append(prefix + entry.name.removesuffix(".yaml"))
    return names
