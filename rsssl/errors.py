"""The one error a user is meant to see, and the "did you mean" that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message names the file, key or value and ends with what to type."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name` (any capitalisation), or None when nothing comes close."""
    by_lower = {c.lower(): c for c in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None
