"""Checks that hold for every value of a composed configuration: it is there, finite, and of its default's kind."""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsssl.errors import UserError

MISSING = "???"  # in a YAML: has to be typed
LARGEST = 2**63 - 1  # of the whole numbers that a computer's word holds
NONE = object()  # there is no such key
SHARED = ("paths", "device", "workers", "processes", "timeout")  # keys of all tasks


def check_values(cfg: DictConfig, defaults: DictConfig, open_keys: Sequence[str]) -> None:
    """Refuses values that nothing could be made of.

    Everywhere: a reference to a key that does not exist; "???" where something stood; a number that is not finite, or
    of more than 64 bits; one below zero where the default is not; a value in place of a group of keys, and a key that
    is left out, unless it stands below one of `open_keys`. Of those and of SHARED: a value of another kind than the
    default, and than the class of its group declares.

    Args:
        cfg: the configuration.
        defaults: the same with its options alone, and no value typed.
        open_keys: the groups whose keys no dataclass declares (see `undeclared`).

    Raises:
        UserError: naming the key and what to type.
    """

    def below(key: str, groups: Sequence[str]) -> bool:
        return any(f"{key}.".startswith(f"{group}.") for group in groups)

    given, usual = resolved(cfg), resolved(defaults)
    for key, value, default in pairs(given, usual):
        check_number(key, value, default)
        if default is NONE or default == MISSING:
            continue
        if value == MISSING:
            raise UserError(f"{key}=??? stands for a value that has to be typed: type {example(key, default)}")
        if default is None or same_kind(default, value):
            continue
        group, loose = isinstance(default, dict), below(key, open_keys)
        if group and value is None and loose:  # as an operation of an augmentation that is left out
            continue
        if group or ((loose or below(key, SHARED)) and kind(value) not in declared(given, key)):
            raise UserError(
                f"{key}={'null' if value is None else value} is {kind(value)}, but {key} takes {kind(default)}: type "
                f"for example {example(key, default)}"
            )
    for key, default, value in pairs(usual, given):
        if value is NONE and not below(key, open_keys):
            raise UserError(f"{key}= cannot be left out: type {example(key, default)}")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain Python, its references resolved; UserError for one that leads nowhere."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = str(error.msg).splitlines()[0]
        raise UserError(f"{error.full_key}: {reason}: type {error.full_key}= with a value and no reference") from None


def pairs(given: dict[str, Any], usual: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value, default) of all keys that a configuration has, and of those of its groups."""
    for name, value in given.items():
        key = f"{prefix}{name}"
        default = usual.get(name, NONE) if isinstance(usual, dict) else NONE
        yield key, value, default
        if isinstance(value, dict):
            yield from pairs(value, default, f"{key}.")


def check_number(key: str, value: Any, default: Any) -> None:
    """Refuses numbers that are not finite, too large, or below zero where the default is not; those in lists too."""
    if isinstance(value, list):
        first = default[0] if isinstance(default, list) and default else NONE
        for element in value:
            check_number(key, element, first)
    if not isinstance(value, int | float) or isinstance(value, bool) or key.endswith("nodata"):
        return
    if not math.isfinite(value) or abs(value) > LARGEST:
        text = "" if isinstance(default, int | float) else f", or text between quotes: '{key}=\"TEXT\"'"
        raise UserError(f"{key}={value} is not a number to compute with: type {example(key, default)}{text}")
    if value < 0 and isinstance(default, int | float) and default >= 0:
        raise UserError(f"{key}={value} is below zero: type {example(key, default)}")


def undeclared(cls: type, prefix: str = "") -> Iterator[str]:
    """The keys of a dataclass that hold keys of no dataclass: those of groups whose option names a class of its own."""
    hints = get_type_hints(cls)
    for field in fields(cls):  # type: ignore[arg-type]
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from undeclared(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        elif "dict[str, typing.Any]" in str(hint):
            yield prefix + field.name


def declared(given: dict[str, Any], key: str) -> list[str]:
    """The kinds of value that the class of a key's group declares for that argument, beside its default's."""
    *above, name = key.split(".")
    node: Any = given
    for part in above:
        node = node[part]
    try:
        annotation = str(inspect.signature(pkgutil.resolve_name(node["_target_"])).parameters[name].annotation)
    except Exception:  # no class, or a fault in a user's own file, which is told where classes are looked at
        return []
    return [kind(value) for word, value in (("None", None), ("float", 0.0), ("int", 0)) if word in annotation]


def same_kind(default: Any, value: Any) -> bool:
    """Whether a value may stand where the default stands: a whole number may become another number of a float's."""
    if isinstance(default, list) and isinstance(value, list):
        return not default or all(any(same_kind(known, element) for known in default) for element in value)
    if isinstance(default, float) and isinstance(value, int):
        return not isinstance(value, bool)
    return kind(default) == kind(value)


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a group of keys"}
    if isinstance(value, list):
        return f"a list, each of it {kind(value[0])}" if value else "a list"
    return names.get(type(value), "null")


def example(key: str, default: Any) -> str:
    """What to type for a key whose default is known."""
    if isinstance(default, dict):
        return f"one of its keys, {key}.{next(iter(default), 'KEY')}="
    text = "VALUE" if default is NONE else "null" if default is None else str(default).replace(" ", "")
    return f"{key}={text.lower() if isinstance(default, bool) else text}"
