"""What the manual's reference is made of: YAML files with their comments, and the arguments that docstrings explain."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rsssl.models.classic import NAMES
from rsssl.networks.recipe import AUTO_MINUTES, MOST_EPOCHS

CONF = Path(__file__).resolve().parents[1] / "conf"
LONGEST = 60  # characters of a default that is shown
NOT_KEYS = ("_target_", "_convert_", "hydra", "task")
WORDS = {  # of Python, and of the code, in those of the command line
    r"\bNone\b": "`null`",
    r"\bTrue\b": "`true`",
    r"\bFalse\b": "`false`",
    "AUTO_MINUTES": ", ".join(f"{minutes:g} on {device}" for device, minutes in AUTO_MINUTES.items()),
    "MOST_EPOCHS": str(MOST_EPOCHS),
    r"classic\.NAMES": ", ".join(NAMES),
}


@dataclass(frozen=True)
class Option:
    """One YAML.

    Args:
        group: its folder.
        name: of the option.
        about: the comment on top.
        commands: those that the comment shows.
        values: what the file holds.
        chooses: of other groups, as it would be typed.
        comments: of keys, by their last names.
    """

    group: str
    name: str
    about: str
    commands: tuple[str, ...]
    values: dict[str, Any]
    chooses: tuple[str, ...]
    comments: dict[str, str]

    @property
    def own(self) -> dict[str, Any]:
        """The keys of its own group, for a file that has those of other groups too."""
        return dict(self.values.get(self.group, self.values))

    @property
    def target(self) -> str | None:
        return self.own.get("_target_")

    @property
    def brings(self) -> str:
        """What it chooses and sets in other groups."""
        others = {k: v for k, v in self.values.items() if k != self.group} if self.own != self.values else {}
        return ", ".join(f"`{text}`" for text in (*self.chooses, *(f"{k}={typed(v)}" for k, v in leaves(others))))


@cache
def option(group: str, name: str) -> Option:
    """The option that a file describes."""
    text = (CONF / group / f"{name}.yaml").read_text()
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(text))  # type: ignore[assignment]
    defaults = [d for d in values.pop("defaults", []) if isinstance(d, dict)]
    chosen = [(k.removeprefix("override ").strip("/"), v) for d in defaults for k, v in d.items()]
    head = re.match(r"(#.*\n)*", text)
    lines = [line.lstrip("# ") for line in head[0].splitlines() if "@package" not in line] if head else []
    commands = [c.strip() for line in lines for c in re.findall(r"rsssl-run .*?(?=,? or |\s{3,}\(|$)", line)]
    about = " ".join(re.split(r":?\s*rsssl-run ", line)[0] for line in lines if not line.startswith("rsssl-run"))
    about = re.sub(r", or train a classifier first:$", "", about.strip()).rstrip(":.")
    chooses = tuple(f"{k}={v}" for k, v in chosen if "@" not in k)
    return Option(group, name, about, tuple(commands), values, chooses, comments_of(text))


def names(group: str) -> list[str]:
    """The options of a group."""
    folder = CONF / group
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def leaves(values: Mapping[str, Any], prefix: str = "", stop: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty group of keys, and one named in `stop`, counts as a value."""
    for key, value in values.items():
        if key in NOT_KEYS:
            continue
        if isinstance(value, Mapping) and value and "_target_" not in value and key not in stop:
            yield from leaves(value, f"{prefix}{key}.", stop)
        else:
            yield f"{prefix}{key}", value


def comments_of(text: str) -> dict[str, str]:
    """The comment behind each key, by its last name: no file has one twice."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.match(r".*?(\w+): [^#]*?\s+# (.*)$", line):
            found[match[1]] = match[2].strip()
    return found


def resolve(name: str) -> Any:
    """What a `_target_` names."""
    return pkgutil.resolve_name(name)


def arguments(target: Any) -> dict[str, str]:
    """What the docstring of a class and of its bases, or of a function, says of each argument."""
    found: dict[str, str] = {}
    for owner in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        doc = inspect.cleandoc(owner.__doc__ or "")
        section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.M | re.S)
        for name, said in re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.M | re.S):
            found[name] = " ".join(said.split())
    return found


def returned(function: Any) -> str:
    """What a function's docstring says that it gives back."""
    section = re.search(r"^Returns:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(function.__doc__ or ""), re.M | re.S)
    return cell(" ".join(section[1].split())) if section else ""


def cell(text: str) -> str:
    """Words of a docstring or a comment for a table: nothing that ends a cell, or that Markdown takes for itself."""
    for pattern, word in WORDS.items():
        text = re.sub(pattern, word, text)
    text = re.sub(r"[;,]? \(?see `[A-Z]\w+`\)?", "", text).replace("|", "\\|")  # of the code alone
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]  # outside of code
    return "`".join(parts)


def typed(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(typed(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(value: Any) -> str:
    """A default in a table."""
    if value == "???":
        return "to be typed"
    text = "null" if str(value).startswith("${oc.select") else typed(value)
    if unless := re.fullmatch(r"\$\{rsssl\.unless:([^,]+),.*\}", str(value)):
        text = typed(float(unless[1]))
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[: LONGEST - 4]} ...`"


def meaning(key: str, said: Mapping[str, str], comments: Mapping[str, str]) -> str:
    """What a key means, as its class's docstring says or else the YAML's comment, and the values that this lists."""
    name = key.split(".")[-1]
    comment = comments.get(name, "")
    name = next((part for part in reversed(key.split(".")) if part in said), name)  # or that of the keys around it
    listed = re.match(r"[\w.-]+(:\d+)?( \| [\w.-]+(:\d+)?)+", comment)
    values = " or ".join(f"`{value}`" for value in listed[0].split(" | ")) if listed else ""
    if name not in said:
        return values + cell(comment[listed.end() :] if listed else comment)
    text = cell(said[name]).rstrip(".")
    return f"{text}: {values}" if values and '"' not in text else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"
