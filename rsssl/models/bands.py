"""Names of bands: which of them are red, green and blue, and which of one sensor are those of another."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache

log = logging.getLogger(__name__)
COLOURS = ("red", "green", "blue")
LETTERS = {"r": "red", "g": "green", "b": "blue"}
SENTINEL2 = {"b02": "blue", "b03": "green", "b04": "red"}


def plain_names(names: Sequence[str]) -> list[str]:
    """Names that can be compared: lower case, "r" as "red", Sentinel-2's B02, B03 and B04 as their colours.

    B1 to B12 alone are not taken for Sentinel-2's: Landsat counts in the same way. One with a zero (B01) or B8A is.
    """
    lower = [name.strip().lower() for name in names]
    numbered = any(re.fullmatch(r"b0\d|b8a", name) for name in lower)

    def of(name: str) -> str:
        if numbered and re.fullmatch(r"b\d", name):
            name = f"b0{name[1]}"
        return SENTINEL2.get(name, name) if numbered else LETTERS.get(name, name)

    return [of(name) for name in lower]


def shown_bands(names: Sequence[str]) -> list[int]:
    """The numbers of the three bands that people are shown: red, green and blue if they are named, else the first three
    (of one or two bands the first)."""
    known = plain_names(names)
    if set(COLOURS) <= set(known):
        return [known.index(colour) for colour in COLOURS]
    return [0, 1, 2] if len(known) > 2 else [0, 0, 0]


def places(theirs: Sequence[str], ours: Sequence[str]) -> list[int | None]:
    """For each of our bands the number of theirs with the same name (see `plain_names`); None where there is none."""
    known = plain_names(theirs)
    return [known.index(name) if name in known else None for name in plain_names(ours)]


@cache
def tell_unknown(bands: tuple[str, ...]) -> None:
    """Says which bands a start does not know: once, though it is loaded for the training and again for baselines."""
    if bands:
        names = ", ".join(bands)
        log.info("the start does not know these bands, which get the mean of its filters: %s", names)
