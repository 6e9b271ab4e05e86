"""What a failed composition means: which override is at fault, what is wrong with it, and what to type."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException, ValidationError

from rsssl.errors import UserError, nearest, typed
from rsssl.groups import GROUPS

# Keys that have another name now: (task, old) -> new.
RENAMED = {("accuracy", "scene"): "class_map", ("map", "adapt"): "values"}
# Keys whose work another one does: what to say.
REPLACED = {
    "backbone.pretrained": "type start=imagenet",
    "backbone.weights": "type start=file start.file={value}",
    "backbone.adapt": "bands are matched by name, type nothing in its place",
}


class Composer(Protocol):
    """What is needed of `rsssl.compose.Composer`."""

    def defaults(self, overrides: list[str]) -> DictConfig: ...
    def build(self, overrides: list[str]) -> Any: ...
    def options(self, group: str) -> list[str]: ...


def leaf_keys(cfg: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config, inner nodes included."""
    keys: list[str] = []
    if isinstance(cfg, DictConfig):
        for name in cfg:
            keys.append(f"{prefix}{name!s}")
            keys += leaf_keys(cfg._get_node(name), f"{prefix}{name!s}.")
    return keys


def parsed(overrides: list[str]) -> list[Override]:
    """The overrides as Hydra understands them; UserError when it does not."""
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        if bare := next((word for word in overrides if re.fullmatch(r"[^=~+]+", word)), None):
            folder = f"dataset=folder {typed('dataset.root', bare)}" if Path(bare).is_dir() else f"KEY={bare}"
            raise UserError(f"{bare} has no key; all is typed key=value: type {folder}") from None
        raise UserError(f"{error}\nAn override is typed key=value, for example ts=5 or dataset.root=/data") from None


def text_of(override: Override) -> str:
    """The value as it was typed; nothing for `~key`."""
    return (override.input_line or "").partition("=")[2]


def check_options(composer: Composer, overrides: list[str]) -> None:
    """Raises UserError for a group that is left out, or given anything but the names of its options."""
    for override in parsed(overrides):
        key, value = override.key_or_group, override.value()
        if key not in GROUPS or override.is_sweep_override() or (value is None and key == "experiment"):
            continue
        options = composer.options(key)
        for name in value if isinstance(value, list) and value else [value]:
            if override.is_delete() or not isinstance(name, str) or name.removesuffix(".yaml") not in options:
                raise UserError(unknown_option(override, text_of(override) if name is value else str(name), options))


def unknown_option(override: Override, name: str, options: list[str]) -> str:
    """What to say of an option that a group does not have."""
    key = override.key_or_group
    if override.is_delete():
        return f"{override.input_line}: {key} cannot be left out: type {key}= with one of {', '.join(options)}"
    if name in options:
        return (
            f"{key}={name}: Hydra reads {name} as a value and not as a name: give the file another name, or type "
            f"{key}='\"{name}\"'"
        )
    meant = nearest(name.replace("null", "none"), options) or options[0]
    return f"{key}={name} is unknown; {key} has {', '.join(options)}. Did you mean this? Type {key}={meant}"


def explain(composer: Composer, overrides: list[str], error: Exception) -> str:
    """The sentence for a failed composition.

    Args:
        composer: in which Hydra is initialised.
        overrides: as they were typed.
        error: what Hydra or OmegaConf raised for all of them together.
    """
    for override in sorted(parsed(overrides), key=lambda o: o.is_add() or o.is_force_add()):  # what may be new: last
        if not override.key_or_group.startswith("hydra") and (message := explain_one(composer, overrides, override)):
            return message
    return f"{error}\nType rsssl-run --help for the groups and keys"


def explain_one(composer: Composer, overrides: list[str], override: Override) -> str | None:
    """What is wrong with one override; None when it is right."""
    key = override.key_or_group
    task = chosen_task(overrides)
    if key in ("task", "experiment"):
        return None
    options = [f"task={task}", *chosen_groups(composer, overrides)]
    names = known_keys(composer, options, task)
    if key not in names:
        return unknown_key(composer, override, task, names)
    return wrong_value(composer, [*options, override.input_line or ""], override)


def chosen_task(overrides: list[str]) -> str:
    """The last task=NAME typed, else the default."""
    names = [str(o.value()) for o in parsed(overrides) if o.key_or_group == "task" and not o.is_sweep_override()]
    return names[-1].removesuffix(".yaml") if names else "pipeline"


def chosen_groups(composer: Composer, overrides: list[str]) -> list[str]:
    """The overrides that choose an option which exists."""
    split = [o.partition("=") for o in overrides]
    return [
        f"{k}={v}" for k, _, v in split if k in GROUPS and k not in ("task", "experiment") and v in composer.options(k)
    ]


def known_keys(composer: Composer, overrides: list[str], task: str) -> list[str]:
    """The keys and groups that there are with these overrides, or at least with the task alone."""
    for line in (overrides, [f"task={task}"], []):
        try:
            cfg = composer.defaults(line)
        except (HydraException, OmegaConfBaseException):
            continue
        return [*leaf_keys(cfg), "task", "experiment"]
    return []


def unknown_key(composer: Composer, override: Override, task: str, names: list[str]) -> str:
    """What to say of a key that the task does not have: the task that has it, or the nearest name."""
    key, value = override.key_or_group, text_of(override)
    if new := RENAMED.get((task, key)):
        return f"{key}= is called {new}= with task={task}: type {new}={value}"
    if instead := REPLACED.get(key):
        return f"{key}= is not a key any more: {instead.format(value=value)}"
    if owners := tasks_with(composer, key):
        others = f" (or {', '.join(f'task={o}' for o in owners[1:])})" if len(owners) > 1 else ""
        return (
            f"{key}= belongs to task={owners[0]}{others} and not to task={task}: type task={owners[0]} with it, or "
            f"leave {key}= out"
        )
    ending = sorted(
        (name for name in names if name.endswith(f".{key}")), key=lambda name: not name.startswith("dataset.")
    )
    meant = ending[0] if ending else nearest(key, names if "." in key else [*names, *GROUPS])
    guess = f"Did you mean {meant}? Type {meant}={value}" if meant else "Type rsssl-run --help"
    return f"{key} is not a key of the configuration. {guess}"


def tasks_with(composer: Composer, key: str) -> list[str]:
    """The tasks that have a key."""
    first = ("predict", "pipeline", "map")  # of several, those that people mean
    tasks = sorted(composer.options("task"), key=lambda t: (t not in first, first.index(t) if t in first else 0, t))
    found = []
    for task in tasks:
        with suppress(Exception):  # a task of the user's own that does not compose is not the one they mean
            found += [task] if key in leaf_keys(composer.defaults([f"task={task}"])) else []
    return found


def wrong_value(composer: Composer, overrides: list[str], override: Override) -> str | None:
    """What is wrong with the value of a key that exists; None when it is right."""
    try:
        composer.build(overrides)
    except UserError as error:
        return str(error)
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        return f"{override.input_line}: {reason}. Type rsssl-run --cfg job to see the keys with their values"
    except (HydraException, OmegaConfBaseException) as error:
        if "Ambiguous value" in str(error):
            if override.key_or_group == "bands":
                return f"{override.input_line} is not a list: type 'bands=[{text_of(override)}]'"
            return f"{override.input_line} holds several values: type rsssl-run --multirun {override.input_line}"
        if isinstance(error, HydraException) and override.key_or_group not in GROUPS:
            reason = str(error).splitlines()[0]
            return f"{override.input_line}: {reason}. Type rsssl-run --cfg job to see the keys with their values"
    return None
