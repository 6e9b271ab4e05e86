"""What the nodes of a composed configuration describe, as objects of the classes that declare their keys."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rsssl.data.dataset import Dataset, class_of
from rsssl.errors import UserError
from rsssl.own import task_class


def plain(node: Any) -> Any:
    """A node with its interpolations resolved, as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


def structured(cls: type, values: dict[str, Any]) -> Any:
    """A node with the fields of a dataclass, and values converted to their types; `_target_` is left out."""
    return OmegaConf.merge(OmegaConf.structured(cls), {k: v for k, v in values.items() if k != "_target_"})


def dataset_of(node: DictConfig) -> Dataset:
    """The dataset that a node describes."""
    values = plain(node)
    dataset: Dataset = OmegaConf.to_object(structured(class_of(values), values))  # type: ignore[assignment]
    return dataset


def task_of(cfg: DictConfig, name: str, partial: bool = False) -> Any:
    """The task that a configuration describes.

    Its keys stand at the root, or, where no other task has them, in a group of the task's own name.

    Args:
        cfg: the composed configuration.
        name: of the task, as in task=name.
        partial: None for a key that the task needs and nobody gave, and no error; to check the other values.

    Raises:
        UserError: for a key that the task needs and nobody gave.
        ValidationError: for a value of another type.
    """
    cls = task_class(cfg)
    named = {field.name for field in fields(cls)}
    group = {} if name in named else cfg.get(name) or {}
    values: dict[str, Any] = {}
    for field in fields(cls):
        source, key = (group, f"{name}.{field.name}") if field.name in [*group] else (cfg, field.name)
        if OmegaConf.is_missing(source, field.name):
            if not partial:
                example = f"{key}={getattr(cls, 'examples', {}).get(field.name, 'VALUE')}"
                raise UserError(f"task={name} needs {key}=: type for example {example}")
            values[field.name] = "?"
            continue
        value = source[field.name]
        values[field.name] = plain(value) if OmegaConf.is_config(value) else value
    if "dataset" in values:
        values["dataset"] = structured(class_of(values["dataset"]), values["dataset"])
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
