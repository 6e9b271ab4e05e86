"""Classes as tables and archives write them, by name or by number, as the numbers that labels are."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

import numpy as np

from rsssl.errors import UserError, nearest

MOST = 10_000  # classes; more of them are captions, or names of files


def key(name: str) -> str:
    """A class name without capitalisation, underscores, hyphens and spaces."""
    return "".join(c for c in name.lower() if c not in "_- ")


class ClassColumn:
    """The class of each of many images, as it was written. Takes eight bytes an image.

    Args:
        origin: where they stand, for messages.
        classes: see `rsssl.data.dataset.Dataset`.
    """

    def __init__(self, origin: str, classes: Sequence[str] | None) -> None:
        self.origin, self.classes = origin, classes
        self._codes, self._known = array("q"), dict[str, int]()

    def add(self, value: str | None) -> None:
        """The class of the next image; None or nothing for an unlabelled one.

        Raises:
            UserError: for more classes than there can be.
        """
        if not value or self.classes == []:
            self._codes.append(-1)
            return
        self._codes.append(self._known.setdefault(value, len(self._known)))
        if len(self._known) > MOST:
            raise UserError(
                f"{self.origin} has more than {MOST:,} classes, e.g. {value[:60]!r}: for images without classes type "
                "'dataset.classes=[]'"
            )

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Numbers of classes, int64 (N,), -1 for an unlabelled image; and their names.

        Official names keep their order, and those without an image are left out. A whole number that is no name counts
        them, from 0. Without official names, names are sorted, and numbers by their size.

        Raises:
            UserError: for a class that is not official.
        """
        values = list(self._known)
        if self.classes:
            names = list(self.classes)
            places = [self._official(value) for value in values]
        else:
            numbers = all(value.isdecimal() for value in values)
            names = sorted(values, key=lambda v: (int(v) if numbers else 0, os.fsencode(v)))
            places = [names.index(value) for value in values]
        used = sorted(set(places))
        table = np.array([*(used.index(place) for place in places), -1], np.int64)
        codes = np.frombuffer(self._codes, np.int64) if self._codes else np.zeros(0, np.int64)
        return table[codes], tuple(names[place] for place in used)

    def _official(self, value: str) -> int:
        classes = list(self.classes or ())
        keys = [key(name) for name in classes]
        if key(value) in keys:
            return keys.index(key(value))
        if value.isdecimal() and int(value) < len(classes):
            return int(value)
        close = nearest(value, classes)
        meant = f"; the nearest is {close}" if close else ""
        raise UserError(
            f"{self.origin} has the class {value[:60]!r}, which is none of the {len(classes)} of dataset.classes"
            f"{meant}: correct it, or type dataset.classes=null to take the classes as they stand there"
        )
