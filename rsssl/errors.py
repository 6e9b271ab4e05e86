"""The one error a user is meant to see, and the "did you mean" that goes with it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message names the file, key or value and ends with what to type."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name` (any capitalisation), or None when nothing comes close."""
    by_lower = {c.lower(): c for c in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


NUMBERLIKE = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE | re.ASCII
)


def hydra_text(text: str) -> str:
    """A text as a value that Hydra reads back: quoted where it is not plain, or where Hydra would see a number."""
    plain = re.fullmatch(r"[\w./+@%:-]+", text, re.ASCII) and not NUMBERLIKE.fullmatch(text)
    if plain or re.fullmatch(r"0|[1-9]\d*", text, re.ASCII):  # whole numbers become the same text again
        return text
    escaped = re.sub(
        r"(\\*)(\"|$)", lambda m: 2 * m[1] + ('\\"' if m[2] else ""), text
    )  # Hydra escapes only what ends a quote
    return f'"{escaped}"'


def typed(key: str, value: object) -> str:
    """key=value as it has to be typed: quoted for Hydra, and that for the shell, where the value is not plain."""
    text = f"{key}={hydra_text(str(value))}"
    return shlex.quote(text) if '"' in text else text
