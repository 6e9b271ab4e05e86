"""The colours of classes: those that somebody chose, those that maps usually have, and for the rest colours apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rsssl.data.raster import import_gdal, open_gdal, quiet
from rsssl.geo.style import distances, palette

# Words of a name, and the colours of the classes that have one of them, the first class the first.
USUAL = (
    (("water", "sea", "lake", "river", "ocean", "pond", "reservoir"), ("#2b6cb0", "#63a4dc", "#1b4a7f", "#8fc1e8")),
    (("forest", "wood", "woods", "woodland", "tree", "trees"), ("#1f7a3d", "#4f9d5d", "#0f5228")),
    (
        ("urban", "city", "built", "residential", "building", "buildings"),
        ("#c0392b", "#e07b6e", "#8e2a1f"),
    ),
    (("industrial", "industry", "commercial"), ("#8e5aa8", "#b58ac9")),
    (("road", "roads", "highway", "street", "railway", "asphalt"), ("#5b5b66", "#8b8b96")),
    (("beach", "sand", "dune", "dunes", "desert"), ("#f0d479", "#d9b95b")),
    (("crop", "crops", "field", "fields", "farmland", "cropland", "agriculture", "annual"), ("#d99a2b", "#b97a16")),
    (("orchard", "vineyard", "permanent", "plantation"), ("#a9b23a", "#7f8a1e")),
    (
        ("grass", "grassland", "meadow", "pasture", "vegetation", "herbaceous"),
        ("#8cc665", "#a9d98a", "#6aa545"),
    ),
    (("shrub", "shrubs", "scrub", "heath"), ("#9c9f5c",)),
    (("wetland", "marsh", "swamp", "mangrove"), ("#4fb3a0", "#2f8c7c")),
    (("bare", "soil", "rock", "rocks", "barren", "quarry", "ground"), ("#a67c52", "#c7a17a")),
    (("snow", "ice", "glacier"), ("#b9dcec", "#93c4da")),
    (("cloud", "clouds"), ("#b7b7c4",)),
    (("burnt", "burned", "fire"), ("#4a2c2a",)),
)
APART = 0.08  # in Oklab, that a colour which nobody chose keeps from all others


def colours_of(classes: Sequence[str], given: Mapping[str, str] | None = None) -> np.ndarray:
    """(K, 3) uint8.

    Args:
        classes: their names.
        given: colours by name, "#2b6cb0"; names in any capitalisation.
    """
    chosen = {name.casefold(): as_rgb(colour) for name, colour in (given or {}).items()}
    out: dict[int, np.ndarray] = {i: chosen[n.casefold()] for i, n in enumerate(classes) if n.casefold() in chosen}

    def free(colour: np.ndarray) -> bool:
        return not out or float(distances(colour[None], np.stack([*out.values()])).min()) >= APART

    for i, name in enumerate(classes):
        shades = [as_rgb(c) for c in usual(name)]
        if i not in out and (shade := next((s for s in shades if free(s)), None)) is not None:
            out[i] = shade
    if not out:
        return palette(len(classes))
    left = iter(palette(len(classes) + 200))
    for i in range(len(classes)):
        if i not in out:
            out[i] = next((c for c in left if len(classes) > 100 or free(c)), palette(i + 1)[i])
    return np.stack([out[i] for i in range(len(classes))])


def usual(name: str) -> tuple[str, ...]:
    """The colours that maps usually give to a class of that name; none for one that nobody knows."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    for known, colours in USUAL:
        if any(word in known or word.removesuffix("s") in known for word in words):
            return colours
    return ()


def as_rgb(colour: str) -> np.ndarray:
    """(3,) uint8 of "#rrggbb"."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


def of_style(path: str, layer: str = "") -> dict[str, str]:
    """The colours that a QGIS style gives to the classes of a file of labels: its .qml, or the one that a GeoPackage
    holds; none where there is no style by category."""
    text = ""
    qml = Path(path).with_suffix(".qml")
    if qml.is_file():
        text = qml.read_text(encoding="utf-8", errors="replace")
    elif Path(path).suffix.lower() == ".gpkg":
        text = _kept_style(path)
    try:
        return _categories(ElementTree.fromstring(text)) if text else {}
    except ElementTree.ParseError:
        return {}


def _kept_style(path: str) -> str:
    """The default style in a GeoPackage, where QGIS keeps it."""
    gdal = import_gdal(path)
    with quiet(gdal):
        dataset = open_gdal(path, gdal.OF_VECTOR)
        styles: Any = dataset.GetLayerByName("layer_styles")
        kept = [(bool(row.GetField("useAsDefault")), str(row.GetField("styleQML") or "")) for row in styles or []]
    return max(kept, default=(False, ""))[1]


def _categories(root: ElementTree.Element) -> dict[str, str]:
    """{value: "#rrggbb"} of a renderer by category."""
    symbols = {}
    for symbol in root.iterfind(".//renderer-v2/symbols/symbol"):
        for element in symbol.iter():
            if element.tag in ("Option", "prop") and "color" in (element.get("name"), element.get("k")):
                numbers = re.findall(r"\d+", element.get("value") or element.get("v") or "")[:3]
                if len(numbers) == 3 and symbol.get("name") not in symbols:
                    symbols[symbol.get("name")] = "#" + "".join(f"{min(int(n), 255):02x}" for n in numbers)
    categories = root.iterfind(".//renderer-v2/categories/category")
    pairs = ((each.get("value"), symbols.get(each.get("symbol"))) for each in categories)
    return {value: colour for value, colour in pairs if value and colour}


def of_table(dataset: Any) -> dict[int, str]:
    """The colours {value: "#rrggbb"} that a class raster's table gives to its values."""
    table = dataset.GetRasterBand(1).GetColorTable()
    if table is None:
        return {}
    return {i: "#{:02x}{:02x}{:02x}".format(*table.GetColorEntry(i)[:3]) for i in range(table.GetCount())}
