"""Text that reads as a number: to Hydra and to YAML 2024.10 is 2024.1, 1e5 is 100000.0, and true is True.

Where text is meant, as in the name of a folder, that would be another text, in silence.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra.core.override_parser.types import Override

from rsssl.errors import UserError
from rsssl.explain import text_of
from rsssl.values import kind

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def check_typed(overrides: Sequence[Override], name: str, task: Any) -> None:
    """Refuses what was typed for text and read as something else.

    Args:
        overrides: without sweeps.
        name: of the task, whose group of keys may have its name.
        task: made of the configuration.

    Raises:
        UserError: naming the key and what to type.
    """
    for override in overrides:
        key, words = override.key_or_group, text_of(override).strip()
        if not words or override.is_sweep_override():
            continue
        value: Any = override.value()
        listed = isinstance(value, list)
        parts = [part.strip() for part in words[1:-1].split(",")] if listed else [words]
        values = value if listed else [value]
        if len(parts) != len(values):  # a comma between quotes
            continue
        meant = [quoted(part, one) for part, one in zip(parts, values, strict=True)]
        if meant != parts and (key in FOLDERS or became_text(key, name, task)):
            better = f"[{','.join(meant)}]" if listed else meant[0]
            raise UserError(
                f"{key} takes text, and {words} was read as {' and '.join(wrong(values))}: put it between quotes, type "
                + shlex.quote(f"{key}={better}")
            )


def quoted(words: str, value: Any) -> str:
    """The words between quotes, where they were read as another value than themselves."""
    return f'"{words}"' if isinstance(value, bool | int | float) and str(value) != words else words


def wrong(values: Sequence[Any]) -> list[str]:
    """What words were read as."""
    return [f"{kind(value)}, {value}" for value in values if isinstance(value, bool | int | float)]


def became_text(key: str, name: str, task: Any) -> bool:
    """Whether a key's value, or one of its list, became text in the task."""
    made = task
    for part in (key if hasattr(task, name) else key.removeprefix(f"{name}.")).split("."):
        made = made.get(part) if isinstance(made, dict) else getattr(made, part, None)
    return any(isinstance(one, str) for one in (made if isinstance(made, list) else [made]))


def check_written(given: Any, made: Any, where: str, typed: Sequence[str] = ()) -> None:
    """Refuses what a YAML file has for text and was read as something else.

    Args:
        given: the values of the configuration.
        made: what became of them: a dataclass, a dict, a list, or one value.
        where: what to say before a key.
        typed: keys that stand on the command line.

    Raises:
        UserError: naming the key and what to write.
    """
    for key, value in misread(given, made, ""):
        if key not in typed:
            raise UserError(
                f"{where}{key} takes text, and what stands in the YAML file was read as {kind(value)}, {value}: put it "
                "between quotes there"
            )


def misread(given: Any, made: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of the numbers, and of true and false, that became text."""
    if is_dataclass(made):
        made = vars(made)
    if isinstance(given, dict) and isinstance(made, dict):
        for name in given.keys() & made.keys():
            yield from misread(given[name], made[name], f"{key}.{name}" if key else name)
    elif isinstance(given, list) and isinstance(made, list):
        for one, other in zip(given, made, strict=False):
            yield from misread(one, other, key)
    elif isinstance(given, float | bool) and isinstance(made, str):
        yield key, given
