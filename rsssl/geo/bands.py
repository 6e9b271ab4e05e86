"""Which band of a file is which band of a sensor card: by name, by number, or in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from rsssl.errors import UserError
from rsssl.models.card import SensorCard

log = logging.getLogger(__name__)


def choose(
    names: Sequence[str], card: SensorCard, bands: Sequence[Any] | None, path: str | os.PathLike[str]
) -> list[int]:
    """The scene's band (from 1) for each band of the card.

    Args:
        names: of the scene's bands, "" where unnamed.
        card: what the classifier was trained on.
        bands: for each band of the card the scene's, by number (from 1) or name; None: by name where the names say it,
            in order where there are none and the numbers agree.
        path: of the scene, for messages.

    Raises:
        UserError: for bands that are not there, or where it is not clear which is which.
    """
    listed = ", ".join(f"{i} {name}".strip() for i, name in enumerate(names, 1))
    wanted = ", ".join(card.bands)
    number = {name.lower(): i for i, name in reversed([*enumerate(names, 1)])}  # of two of a name, the first
    hint = f"type bands=[...] with the scene's numbers for {wanted}"
    if bands is not None:
        if len(bands) != card.n_bands:
            raise UserError(
                f"bands={list(bands)} names {len(bands)} bands, the classifier was trained on {card.n_bands} "
                f"({wanted}); "
                f"{path} has {listed}: {hint}"
            )
        chosen = [band if isinstance(band, int) else number.get(str(band).lower(), 0) for band in bands]
        for i, band in zip(chosen, bands, strict=True):
            if not 1 <= i <= len(names):
                raise UserError(f"bands={list(bands)}: {path} has no band {band}; it has {listed}: {hint}")
        by_name = [number.get(band.lower(), 0) for band in card.bands]
        if all(by_name) and by_name != chosen:
            text = "bands=%s reads %s as %s; by their names they are bands=%s"
            log.warning(text, list(bands), ", ".join(names[i - 1] for i in chosen), wanted, by_name)
        return chosen
    lacking = [band for band in card.bands if band.lower() not in number]
    if not lacking:
        return [number[band.lower()] for band in card.bands]
    generic = not any(names) or all(band == f"band{i}" for i, band in enumerate(card.bands, 1))
    if len(names) == card.n_bands and generic:
        return list(range(1, len(names) + 1))
    raise UserError(
        f"{path} has the bands {listed}, the classifier was trained on {card.n_bands} bands ({wanted}). Not found by "
        "name: "
        f"{', '.join(lacking)}; {hint}, or train on the bands that both have (dataset.select=[...])"
    )
