"""JSON that we wrote ourselves, read in one place, and known to be what was written.

A sealed object has under "seal" the SHA-256 of all else in it. Whatever cannot be read, or does not match its seal, is
`Damaged`: what makes the file throws it away and makes it again, and other readers tell the user.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.errors import UserError

SEAL = "seal"


class Damaged(UserError):
    """A file of ours that is not what was written."""


def digest(content: Any) -> str:
    """The SHA-256 of JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, as JSON reads it back, with its seal."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain | {SEAL: digest(plain)}


def parse_json(text: str | bytes, origin: str | Path, again: str) -> dict[str, Any]:
    """The object that a text holds.

    Args:
        text: JSON.
        origin: where it stands, for the message.
        again: what to type, the end of the message.

    Raises:
        Damaged: when it is no JSON object.
    """
    content = _parsed(text, origin, again)
    if not isinstance(content, dict):
        raise Damaged(f"{origin} is damaged (it holds no JSON object): {again}")
    return content


def parse_sealed(text: str | bytes, origin: str | Path, again: str) -> dict[str, Any]:
    """The object that a text holds, without its seal. Arguments as for `parse_json`.

    Raises:
        Damaged: when it is no JSON object, or another than was sealed.
    """
    return unsealed(parse_json(text, origin, again), origin, again)


def unsealed(content: dict[str, Any], origin: str | Path, again: str) -> dict[str, Any]:
    """A sealed object without its seal. Raises Damaged when it is another than was sealed."""
    seal = content.pop(SEAL, None)
    if seal != digest(content):
        raise Damaged(f"{origin} is damaged (it is not what was written): {again}")
    return content


def read_json(path: Path, again: str) -> dict[str, Any]:
    """The object in a file. Raises Damaged as `parse_json` does, and when the file cannot be read."""
    return parse_json(_content(path, again), path, again)


def read_list(path: Path, again: str) -> list[Any]:
    """The list in a file. Raises Damaged when it holds none, and when it cannot be read."""
    content = _parsed(_content(path, again), path, again)
    if not isinstance(content, list):
        raise Damaged(f"{path} is damaged (it holds no JSON list): {again}")
    return content


def read_sealed(path: Path, again: str) -> dict[str, Any]:
    """The object in a file of `write_sealed`. Raises Damaged as `parse_sealed` does, and when it cannot be read."""
    return parse_sealed(_content(path, again), path, again)


def _content(path: Path, again: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): {again}") from error


def _parsed(text: str | bytes, origin: str | Path, again: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise Damaged(f"{origin} is damaged ({error}): {again}") from error
