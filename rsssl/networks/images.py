"""The images of a prediction: which they are, what is in them, and where they lie."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.conform import Form, conform
from rsssl.data.lists import listed_paths
from rsssl.data.locate import degrees, located
from rsssl.data.raster import PICTURES, BadImage, has_gdal, read
from rsssl.data.scan import scan
from rsssl.errors import UserError
from rsssl.geo.bands import choose
from rsssl.models.card import SensorCard


def place_of(path: str) -> tuple[float, float] | None:
    """Longitude and latitude of the middle of an image; None where it does not say, or GDAL is missing."""
    if os.path.splitext(path)[1].lower() in PICTURES or not has_gdal():
        return None
    try:
        grid, _ = located(path)
    except UserError:
        return None
    lon, lat = degrees(grid, np.array([grid.width / 2]), np.array([grid.height / 2]))[0].tolist()
    return (lon, lat) if np.isfinite(lon) else None


def with_places(rows: Iterator[list[str]], places: list[tuple[float, float] | None]) -> Iterator[list[str]]:
    """The rows of images that can be used with the longitude and latitude of each, empty where it has none."""
    for row, place in zip(rows, places, strict=True):
        yield [*row, *(f"{v:.7f}" for v in place)] if place and row[1] else [*row, "", ""] if row[1] else row


def listed(source: Path) -> tuple[Path, list[str]]:
    """The root and the relative paths of the images: a folder's, or those that a text file or a CSV (column `path`)
    lists."""
    if source.is_dir():
        catalog = scan(source, [], hint="Type images=FOLDER or images=LIST.txt")
        return Path(catalog.root), list(catalog.paths)
    if not source.is_file():
        raise UserError(
            f"images={source} is neither a folder nor a list of images: type images=FOLDER or images=LIST.txt"
        )
    paths = [path for _, path in listed_paths(source, "images", source.suffix.lower() == ".csv")]
    if not paths:
        raise UserError(f"{source} lists no image: type images=FOLDER or images=LIST.txt, a path a line")
    return source.parent, paths


def wanted_bands(card: SensorCard, bands: list[Any] | None) -> list[Any] | None:
    """`bands` as typed, a number (from 1) or a name for each of the classifier's."""
    if bands is not None and (len(bands) != card.n_bands or any(isinstance(b, int) and b < 1 for b in bands)):
        raise UserError(
            f"bands={bands}: the classifier was trained on {card.n_bands} bands ({', '.join(card.bands)}): "
            "type bands=[...] with the number of each in the images, from 1, or its name there"
        )
    return bands


def read_one(path: Path, card: SensorCard, bands: list[Any] | None) -> np.ndarray | str:
    """The image in the form of the training's, its bands chosen as `task=map` does, or why it cannot be."""
    form = Form(
        card.bands, card.n_bands, tuple(range(card.n_bands)), card.dtype, card.size, card.nodata, card.low, card.high
    )
    try:
        raster = read(path, card.n_bands if bands is None else None)
        names = raster.names or ("",) * len(raster.pixels)
        try:
            keep = tuple(b - 1 for b in choose(names, card, bands, path))
        except UserError:
            return refusal(names, card, bands)
        return conform(path, replace(form, in_file=len(names), keep=keep), raster)[0]
    except BadImage as error:
        return error.reason


def refusal(names: Sequence[str], card: SensorCard, bands: list[Any] | None) -> str:
    """What `choose` says of a scene, short enough for a list."""
    listed = textwrap.shorten(", ".join(names), 100, placeholder=" ...") if any(names) else "unnamed"
    found = f"it has {len(names)} bands"
    if bands is not None:
        return f"{found} ({listed}), not all of bands={bands}: type bands=[...] with numbers or names of those it has"
    found += f" ({listed})" if len(names) == card.n_bands else ""
    return (
        f"{found}, expected {card.n_bands} ({', '.join(card.bands)}): type bands=[...] with the number or name of each"
    )
