"""Checks of the YAML files that a command chooses, and of the classes that they name: a user's own, mostly.

Each message names the file and says what to write. Nothing here imports torch: of the package's own classes the source
is read, and only a user's are imported.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from rsssl.data.dataset import class_of
from rsssl.errors import UserError, nearest
from rsssl.groups import GROUPS, group_options, yaml_names

HEADER = "# @package _global_"
# What any task's YAML may hold beside the fields of its class.
SHARED = {"defaults", "task", "hydra", "paths", "device", "workers", "processes", "timeout"}


@dataclass(frozen=True)
class ConfigFile:
    """One YAML of a group.

    Args:
        group: the folder's name.
        path: where it lies.
        node: what it holds.
        at_root: whether it begins with HEADER: then its keys stand at the root, else in the group.
    """

    group: str
    path: Path
    node: dict[str, Any]
    at_root: bool

    @property
    def keys(self) -> dict[str, Any]:
        """Its keys in the group."""
        return (self.node.get(self.group) or {}) if self.at_root else self.node

    def defaults(self) -> Iterator[tuple[str, str]]:
        """(group, option) of the files that it starts from."""
        for entry in self.node.get("defaults") or []:
            pairs = entry.items() if isinstance(entry, dict) else [(self.group, entry)]
            yield from ((str(key).removeprefix("override ").strip("/ "), str(name)) for key, name in pairs)


def refuse_known_names(folder: Path) -> None:
    """Raises UserError for a file that is called like one of the package: Hydra would not read it."""
    for group in (*GROUPS, "hydra/launcher"):
        for name in sorted({*group_options(group)} & {*yaml_names(folder / group)}):
            raise UserError(
                f"{folder / group / name}.yaml has the name of the built-in {group}={name}, which would be taken in "
                f"its place: call it something else, for example {name}_mine.yaml, and type {group}={name}_mine"
            )


def chosen_files(overrides: Sequence[str], config_dir: str | Path | None) -> list[ConfigFile]:
    """The files of the options that are typed, and those that these start from.

    Raises:
        UserError: for one that cannot be read, or whose keys would land in the wrong place.
    """
    folders = [Path(str(resources.files("rsssl.conf"))), *([Path(config_dir)] if config_dir else [])]
    found: dict[Path, ConfigFile] = {}
    todo = [(key, value.strip("'\"")) for key, _, value in (o.partition("=") for o in overrides)]
    while todo:
        group, name = todo.pop()
        for path in (folder / group / f"{name.removesuffix('.yaml')}.yaml" for folder in folders):
            if group in GROUPS and path not in found and path.is_file():
                found[path] = file = read(group, path, path.stat().st_mtime_ns)
                check_place(file)
                todo += file.defaults()
    return list(found.values())


@cache  # a sweep has the same files on many lines
def read(group: str, path: Path, changed: int) -> ConfigFile:
    """A file of a group, as it was `changed` last; UserError when it is not the YAML of some keys."""
    try:
        text = path.read_text(encoding="utf-8")
        node = OmegaConf.to_container(OmegaConf.load(path))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {min(mark.line + 1, len(text.splitlines()))}," if mark else ""
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{path}{line} is not YAML ({reason}): write it as key: value") from None
    except (YAMLError, OmegaConfBaseException, UnicodeError, OSError) as error:
        raise UserError(f"{path} is not YAML in UTF-8 ({error}): write key: value lines into it") from None
    if not isinstance(node, dict):
        raise UserError(f"{path} holds a list and no keys: write key: value lines into it")
    at_root = re.match(r"\s*#\s*@package\s+_global_\s*$", text, re.MULTILINE)
    return ConfigFile(group, path, {str(k): v for k, v in node.items()}, bool(at_root))


def check_place(file: ConfigFile) -> None:
    """Raises UserError for keys that would land in the wrong place, and for a dataset's that do not exist."""
    path, group = file.path, file.group
    if not file.at_root and (group in ("task", "experiment") or group in file.node):
        raise UserError(f"{path} must begin with a line that puts its keys at the root: write {HEADER} as the first")
    if group != "dataset":
        return
    known = [field.name for field in fields(class_of(file.node))]
    for key in file.keys:
        if key not in (*known, "_target_", "defaults"):
            meant = nearest(key, known)
            guess = (
                f"Did you mean this? Write {meant}:" if meant else f"There are {', '.join(known)}: write one of them"
            )
            raise UserError(f"{path}: {key} is not a key of a dataset. {guess}")
    if "name" not in file.keys and "defaults" not in file.node:
        raise UserError(f"{path} does not say what results call the dataset: write name: {path.stem} into it")


def check_composed(files: Sequence[ConfigFile], cfg: DictConfig, task: str) -> None:
    """Checks what files composed to: each names its class, that class exists, and the task's keys are its fields.

    Args:
        files: those chosen.
        cfg: the configuration.
        task: the name of the task, as in task=name.

    Raises:
        UserError: naming the file or the key, and what to write.
    """
    for file in files:
        node = cfg.get(file.group)
        if file.group in ("dataset", "experiment") or (OmegaConf.is_dict(node) and "_target_" in node):
            continue
        line = "task: {_target_: my_file.MyClass}" if file.group == "task" else "_target_: my_file.MyClass"
        below = f" below {file.group}:, or leave its first line out" if file.at_root and file.group != "task" else ""
        raise UserError(f"{file.path} names no class: write {line} into it{below}")
    check_targets(OmegaConf.to_container(cfg))
    for file in files:
        if file.group == "task" and file.path.stem == task:
            check_task(file, task_class(cfg, str(file.path)), cfg)


def task_class(cfg: DictConfig, where: str = "task._target_") -> Any:
    """The dataclass that a task is; UserError, beginning with `where` it is named, where there is none."""
    target = cfg.task._target_
    cls = located(target, "task._target_")
    if not isinstance(cls, type) or not is_dataclass(cls) or not callable(getattr(cls, "run", None)):
        raise UserError(
            f"{where}: {target} is not a task: write @dataclass above the class and def run(self, run: Run) into it"
        )
    return cls


def check_task(file: ConfigFile, cls: Any, cfg: DictConfig) -> None:
    """Raises UserError when the keys of a task's file are not the fields of its class."""
    path, name, target = file.path, file.path.stem, cfg.task._target_
    known = [field.name for field in fields(cls)]
    group = {} if name in known else file.node.get(name) or {}
    parents = [c.__module__.rpartition(".")[2] for c in cls.__mro__[1:] if c.__module__.startswith("rsssl.tasks.")]
    for key in known:
        if key not in (*group, *cfg.keys()):
            start = f", or start its defaults: with - {parents[0]}" if parents else ""
            raise UserError(
                f"{path} has no {key}, a field of {target}: write {key}: and its default into it ({key}: ??? when it "
                f"has to be typed){start}"
            )
    for key in (*file.node, *group):
        if key not in (*known, *SHARED, name):
            raise UserError(f"{path}: {key} is not a field of {target}: write {key}: and its type into the class")


def check_targets(node: Any, key: str = "") -> None:
    """Every `_target_` names something that exists, and that of ssl a method; else UserError."""
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            check_targets(child, f"{key}.{name}" if key else str(name))
    if key.rpartition(".")[2] != "_target_" or (node is None and key == "ssl._target_"):  # ssl=none
        return
    if not isinstance(node, str):
        raise UserError(f"{key}={node} names no class: leave it out, or type {key}=my_file.MyClass")
    if node.startswith("rsssl."):
        check_package(node, key)
        return
    found = located(node, key)
    if key == "ssl._target_" and isinstance(found, type):
        from rsssl.methods.base import Method  # and torch, which the user's file imports too

        if not issubclass(found, Method):
            raise UserError(
                f"{key}={node} is not a method: type from rsssl.methods.base import Method into its file, and "
                f"class {found.__name__}(Method)"
            )


def check_package(target: str, key: str) -> None:
    """Raises UserError when a `_target_` of the package names nothing that its file has."""
    package, (module, _, name) = Path(__file__).parent, target.rpartition(".")
    base = package.joinpath(*module.split(".")[1:])
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if file.is_file() and re.search(rf"\b{re.escape(name)}\b", file.read_text()):
        return
    room = package / target.split(".")[1]
    defined = {
        name: ".".join(file.relative_to(package.parent).with_suffix("").parts)
        for file in sorted((room if room.is_dir() else package).rglob("*.py"))
        for name in re.findall(r"^(?:class|def) (\w+)", file.read_text(), re.MULTILINE)
    }
    meant = nearest(name, defined) or next(iter(defined))
    raise UserError(f"{key}={target} does not exist; this comes nearest: type _target_: {defined[meant]}.{meant}")


def located(target: str, key: str) -> Any:
    """What a `_target_` outside of the package names.

    Args:
        target: module.Class.
        key: where it stands in the configuration.

    Raises:
        UserError: when there is none, or its file cannot be imported, with the file and the line.
    """
    module, _, name = target.rpartition(".")
    found = None
    try:
        found = importlib.import_module(module) if module else None
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError) or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(broken_at(error)) from error
    with suppress(AttributeError, ImportError, ValueError):
        return getattr(found, name) if found else pkgutil.resolve_name(target)  # the latter: an attribute of a class
    if found:
        classes = [n for n, v in vars(found).items() if isinstance(v, type) and v.__module__ == found.__name__]
        meant = nearest(name, classes) or next(iter(classes), "MyClass")
        raise UserError(f"{key}={target}: {found.__file__} has no {name}: write _target_: {module}.{meant}")
    meant = nearest(module, [m.name for m in pkgutil.iter_modules()]) or "my_file"
    raise UserError(
        f"{key}={target}: there is no Python file {module or target}.py in the folder of --config-dir or in the one "
        f"that you work in: write _target_: {meant}.{name}"
    )


def broken_at(error: Exception) -> str:
    """What is wrong with a Python file that cannot be imported: its line, and what Python says of it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
    theirs = [f for f in frames if "site-packages" not in f.filename] or frames
    file, line = (theirs[-1].filename, theirs[-1].lineno) if theirs else (None, None)
    reason = str(error)
    if isinstance(error, SyntaxError):
        file, line, reason = error.filename, error.lineno, error.msg
    more = f", or type pip install {error.name}" if isinstance(error, ModuleNotFoundError) else ""
    return (
        f"{file}, line {line}: {type(error).__name__}: {reason}. Put that line right{more}, and type the command again"
    )
