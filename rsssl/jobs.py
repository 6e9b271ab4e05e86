"""From a composed configuration to a task that runs: for the command line and for Python alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rsssl.checks import check
from rsssl.compose import Composer, composed, option, register, unique
from rsssl.data.dataset import class_of
from rsssl.engine.run import Run
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.objects import plain, task_of


@cache
def store_at(root: str, cache: str, cache_gb: float) -> Store:
    """One store for all jobs of a process: what one has opened stays open for the next."""
    return Store(root, (cache, cache_gb))


def prepared(cfg: DictConfig, options: Mapping[str, str], folder: Path, typed: Sequence[str] = ()) -> tuple[Any, Run]:
    """The task of a configuration, checked, and what it needs to know of its surroundings.

    Args:
        cfg: composed, without Hydra's own node.
        options: the chosen option of each group by its name.
        folder: where records go.
        typed: the overrides.

    Raises:
        UserError: for impossible values, and keys that are needed and not given.
    """
    register()  # in a launcher's process nothing was composed before
    task = task_of(cfg, options["task"])
    check(task)
    run = Run(
        folder=folder,
        store=store_at(cfg.paths.store, cfg.paths.cache, cfg.paths.cache_gb),
        options=options,
        config=plain(cfg),
        option=lambda group, name: option(group, name, {"paths": cfg.paths}),
        device_name=cfg.device,
        workers=cfg.workers,
        timeout=cfg.timeout,
        typed=tuple(typed),
    )
    return task, run


def started(task: Any, run: Run) -> Any:
    """Runs the task; what a constructor raised comes without Hydra's wrapping.

    Raises:
        UserError: also for values that a constructor of the package does not take, and for memory that is not there.
    """
    from hydra.errors import InstantiationException

    try:
        return task.run(run)
    except InstantiationException as error:
        raise of_constructor(error) from error.__cause__
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("can't allocate memory|out of memory", str(error)):
            raise
        raise UserError(
            f"there is not enough memory ({str(error).splitlines()[0]}): type smaller numbers for sizes, or a smaller "
            "batch_size="
        ) from error


def of_constructor(error: Exception) -> Exception:
    """What a constructor raised, as an error of the values that it was given; of a user's own class as it is."""
    cause = error.__cause__
    if isinstance(cause, UserError):
        return cause
    target = re.search(r"'([\w.]+)'", str(error))
    if isinstance(cause, TypeError) and "argument" in str(cause):
        return UserError(
            f"{cause}: write its arguments into the YAML that names it (--config-dir), as those of rsssl.conf do"
        )
    if cause is None or target is None or target[1].split(".")[0] not in ("rsssl", "torch", "torchvision", "timm"):
        return error
    return UserError(f"{target[1]}: {cause}: type other values for its keys, which rsssl-run --cfg job shows")


def run_here(overrides: list[str], config_dir: str | None) -> Any:
    """One job in this process, without a command line. See `rsssl.run`."""
    from hydra.core.hydra_config import HydraConfig

    from rsssl.launch import add_to_path

    add_to_path([config_dir] if config_dir else [])
    unique.cache_clear()  # another job, another folder, in the same second too
    state = HydraConfig.instance()
    before, state.cfg = state.cfg, None  # of a job before: its names are not those of this one's folder
    with Composer(config_dir) as composer:
        composed(composer, overrides, needed=True)
        cfg = composer.compose(overrides, hydra=True)
        state.set_config(cfg)
        folder = Path(cfg.hydra.run.dir).absolute()
        state.cfg = before
        options = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
        OmegaConf.set_struct(cfg, False)
        cfg.pop("hydra")
        if cfg.processes > 1:
            raise UserError("processes= starts other processes: type it with rsssl-run, on the command line")
        task, run = prepared(cfg, options, folder, overrides)
        return started(task, run)


@cache
def _dataset_fields(name: str) -> dict[str, Any]:
    with Composer() as composer:
        known = name if name in composer.options("dataset") else "folder"
        node = plain(composer.compose(["task=pack", f"dataset={known}"]).dataset)
    return {field.name: node[field.name] for field in fields(class_of(node))} | {
        "name": name,
        "_target_": node["_target_"],
    }


def dataset_fields(name: str) -> dict[str, Any]:
    """The fields of the dataset that `dataset=NAME` names; those of dataset=folder for any other name."""
    return dict(_dataset_fields(name))


@cache
def _option(group: str, name: str) -> dict[str, Any]:
    with Composer():
        node: dict[str, Any] = option(group, name, {})
    return node


def configured(group: str, name: str, **changes: Any) -> Any:
    """The object that `group=name` names, as its YAML has it but for some arguments.

    Args:
        group: evaluate, augment, schedule, ...
        name: of the option.
        **changes: arguments in place of the YAML's, and those that the YAML leaves to the caller.
    """
    from hydra.utils import instantiate

    return instantiate(_option(group, name) | changes, _convert_="all")
