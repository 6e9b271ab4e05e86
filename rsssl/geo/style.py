"""What a class map looks like: the colours of its classes, a style file for QGIS and a picture with a legend."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rsssl.engine.files import write_atomic
from rsssl.errors import UserError

# Okabe and Ito's colours, told apart by red-green colour-blind readers, without black.
FIRST = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#f0e442")
INK, GREY, NOTHING = "#262626", "#6b6b6b", "#f2f2f2"
LISTED = 25  # classes in a legend
ORDERED = 1000  # colours of the palette chosen one by one; further ones as they come
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(name: str) -> str:
    """The name with U+FFFD for what neither XML nor UTF-8 can hold, as in folder names of another encoding."""
    return _UNPRINTABLE.sub("\ufffd", name)


def palette(n: int) -> np.ndarray:
    """(n, 3) uint8 colours, neither black nor white; the first ones are the same for any n.

    Seven for all readers, then always the one farthest from all before it, both as most people see it and as readers
    without green receptors do. Distances are Euclidean in Oklab (Ottosson 2020). They repeat after 3,000 or so.
    """
    colours = _ordered()
    return np.resize(colours, (n, 3))


@functools.cache
def _ordered() -> np.ndarray:
    first = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in FIRST], np.uint8)
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    every = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    light = _oklab(every)[:, 0]
    every = every[(light > 0.3) & (light < 0.92)]  # darker ones look black, lighter ones like nodata
    places, chosen = _features(every), list(first)
    nearest = np.min([((places - place) ** 2).sum(axis=1) for place in _features(first)], axis=0)
    while len(chosen) < ORDERED:
        best = int(np.argmax(nearest))
        chosen.append(every[best])
        nearest = np.minimum(nearest, ((places - places[best]) ** 2).sum(axis=1))
    result = np.concatenate([np.array(chosen, np.uint8), every[nearest > 0]])
    result.flags.writeable = False
    return result


def _linear(colours: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) uint8 as linear light in 0..1 (IEC 61966-2-1)."""
    c = colours / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _oklab(colours: np.ndarray) -> np.ndarray:
    return _to_oklab(_linear(colours))


def _to_oklab(light: np.ndarray) -> np.ndarray:
    cones = (
        light
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    return (
        np.cbrt(cones)
        @ np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        ).T
    )


def _features(colours: np.ndarray) -> np.ndarray:
    """(N, 6): Oklab as seen with and without green receptors (Vienot, Brettel and Mollon 1999)."""
    light = _linear(colours)
    deuteranope = light @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    return np.concatenate([_to_oklab(light), _to_oklab(np.clip(deuteranope, 0, 1))], axis=1)


def _hex(colour: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in colour))


def write_qml(path: Path, classes: Sequence[str], colours: np.ndarray) -> None:
    """A style for QGIS 3: colours (K, 3) uint8 and names of the values 0..K-1 of band 1. Beside x.tif, x.qml is found.

    Raises what `rsssl.engine.files.write_atomic` raises.
    """
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        ElementTree.SubElement(
            entries, "paletteEntry", value=str(value), color=_hex(colour), label=printable(name), alpha="255"
        )
    ElementTree.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ElementTree.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    ElementTree.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ElementTree.SubElement(root, "blendMode").text = "0"
    ElementTree.indent(root, " ")
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    write_atomic(path, head + ElementTree.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n")


def write_preview(
    path: Path,
    image: np.ndarray,
    classes: Sequence[str],
    colours: np.ndarray,
    *,
    pixels: np.ndarray | None = None,
    hectares: np.ndarray | None = None,
    title: str = "",
    scene: np.ndarray | None = None,
) -> None:
    """A PNG of a class map with a legend of the classes that occur, the largest first; at its left the scene, if given.

    Args:
        path: the file, written whole or not at all.
        image: (h, w) class numbers, of the size to be shown; any outside 0..K-1 is nodata.
        classes, colours: names, and (K, 3) uint8.
        pixels: (K,) pixels of each class in the full map; counted in `image` if None.
        hectares: (K,) ground area, or None where unknown.
        title: stands above.
        scene: (h, w, 3) uint8 of the same place.

    Raises:
        UserError: without matplotlib; and what `rsssl.engine.files.write_atomic` raises.
    """
    k = len(classes)
    numbers = np.where((image < 0) | (image.astype(np.int64) >= k), k, image).astype(np.int64)
    shown = np.bincount(numbers.ravel(), minlength=k + 1)
    pixels = shown[:k] if pixels is None else np.asarray(pixels)
    picture = np.concatenate([colours, np.zeros((1, 3), np.uint8)])[numbers]
    alpha = np.where(numbers < k, 255, 0).astype(np.uint8)
    lines = _legend(classes, pixels, hectares)
    rgba = np.concatenate([picture, alpha[..., None]], axis=-1)
    write_atomic(path, _draw(rgba, scene, lines, colours, title, bool(shown[k])))


def _legend(classes: Sequence[str], pixels: np.ndarray, hectares: np.ndarray | None) -> list[tuple[int, str, str, str]]:
    """(class, name, share, hectares) of those that occur, by falling pixels."""
    order = [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i] > 0]
    total = max(int(pixels.sum()), 1)
    lines = []
    for i in order:
        share = 100 * pixels[i] / total
        name = " ".join(printable(classes[i]).split())
        area = "" if hectares is None else _hectares(float(hectares[i]))
        lines.append(
            (i, name if len(name) <= 28 else name[:27] + "…", f"{share:.1f} %" if share >= 0.05 else "< 0.1 %", area)
        )
    return lines


def _hectares(area: float) -> str:
    if np.isnan(area):
        return "unknown"
    return f"{area:,.0f} ha" if area >= 100 else f"{area:.1f} ha" if area >= 10 else f"{area:.2f} ha"


def _draw(
    rgba: np.ndarray,
    scene: np.ndarray | None,
    lines: list[tuple[int, str, str, str]],
    colours: np.ndarray,
    title: str,
    nodata: bool,
) -> bytes:
    """The PNG. All places are in inches, from the left and from the top."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise UserError(f"the preview needs matplotlib ({error}): type pip install matplotlib") from error
    listed, more = lines[:LISTED], max(len(lines) - LISTED, 0)
    ratio = float(np.clip(rgba.shape[0] / rgba.shape[1], 1 / 8, 8))  # of strips of a few pixels something must be seen
    wide = min(5.6, 5.6 / ratio) if ratio > 0.45 else 9.0
    high, margin, step = wide * ratio, 0.25, 0.235
    stacked = scene is not None and ratio <= 0.45  # a wide scene above its map
    images = [("Classes", rgba)] if scene is None else [("Scene", scene), ("Classes", rgba)]
    rows = max(len(listed), 1) + (more > 0) + nodata
    top = margin + (0.42 if title else 0.0) + (0.26 if scene is not None else 0.0)
    across, down = (1, len(images)) if stacked else (len(images), 1)
    left = margin + across * (wide + margin) + 0.1
    width = left + (4.1 if any(line[3] for line in lines) else 3.2) + margin
    height = max(top + down * high + (down - 1) * 0.42, top + 0.1 + rows * step) + margin
    style = {
        "font.size": 9,
        "text.parse_math": False,
        "text.color": INK,
        "hatch.linewidth": 0.6,
        "hatch.color": "#cfcfcf",
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # a box for what the font lacks is good enough
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        for i, (heading, array) in enumerate(images):
            x, y = margin + (0 if stacked else i * (wide + margin)), top + (i * (high + 0.42) if stacked else 0)
            panel = figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))
            panel.set(xticks=[], yticks=[], facecolor=NOTHING)
            panel.patch.set(hatch="////", edgecolor="#cfcfcf", linewidth=0)
            panel.spines[:].set(color="#b0b0b0", linewidth=0.6)
            panel.imshow(array, aspect="auto", interpolation="nearest")
            if scene is not None:
                figure.text(x / width, 1 - (y - 0.07) / height, heading, va="bottom", color=GREY, fontsize=9)
        if title:
            figure.text(margin / width, 1 - margin / height, title, va="top", fontsize=13, fontweight="bold")

        def at(line: int, x: float, text: str, **how: Any) -> None:
            figure.text((left + x) / width, 1 - (top + 0.1 + line * step) / height, text, va="center", **how)

        def swatch(line: int, **how: Any) -> None:
            corner = (left / width, 1 - (top + 0.1 + line * step + 0.075) / height)
            figure.add_artist(Rectangle(corner, 0.24 / width, 0.15 / height, transform=figure.transFigure, **how))

        for line, (i, name, share, area) in enumerate(listed):
            swatch(line, facecolor=_hex(colours[i]), linewidth=0)
            at(line, 0.34, name)
            at(line, 3.15, share, ha="right")
            at(line, 4.1, area, ha="right", color=GREY)
        line = len(listed)
        if not listed:
            at(0, 0, "no class occurs", color=GREY)
            line = 1
        if more:
            at(line, 0.34, f"and {more} more", color=GREY)
        if nodata:
            swatch(rows - 1, facecolor=NOTHING, edgecolor="#cfcfcf", hatch="//////", linewidth=0.6)
            at(rows - 1, 0.34, "no data", color=GREY)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return png.getvalue()
