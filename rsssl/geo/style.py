"""What a class map looks like: the colours of its classes, a style file for QGIS and a picture with a legend."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from rsssl.engine.files import write_atomic
from rsssl.errors import UserError

# Okabe and Ito's colours, told apart by red-green colour-blind readers, without black.
FIRST = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#f0e442")
INK, GREY, NOTHING, LINE = "#262626", "#6b6b6b", "#f2f2f2", "#cfcfcf"
LISTED = 25  # classes in a legend
STEP = 0.235  # inches from one line of a legend to the next
DPI = 150
INDENT, GAP = 0.34, 0.25  # inches from a legend's left to its names, and between its columns
ORDERED = 1000  # colours of the palette chosen one by one; further ones as they come
DEUTERANOPE = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
LIGHT_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(name: str) -> str:
    """The name with U+FFFD for what neither XML nor UTF-8 can hold, as in folder names of another encoding."""
    return _UNPRINTABLE.sub("\ufffd", name)


def palette(n: int) -> np.ndarray:
    """(n, 3) uint8 colours, neither black nor white; the first ones are the same for any n.

    Seven for all readers, then always the one farthest from all before it, both as most people see it and as readers
    without green receptors do. Distances are Euclidean in Oklab (Ottosson 2020). They repeat after 3,000 or so.
    """
    return np.resize(_ordered(), (n, 3))


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, m) how far colours (n, 3) and (m, 3) uint8 are apart in Oklab, as most people see them."""
    a, b = (_oklab(_linear(colours)) for colours in (one, other))
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(2))


@functools.cache
def _ordered() -> np.ndarray:
    first = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in FIRST], np.uint8)
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    every = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _oklab(_linear(every))[:, 0]
    every = every[(lightness > 0.3) & (lightness < 0.92)]  # darker ones look black, lighter ones like nodata
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


def _oklab(light: np.ndarray) -> np.ndarray:
    return np.cbrt(light @ LIGHT_TO_CONES.T) @ CONES_TO_OKLAB.T


def _features(colours: np.ndarray) -> np.ndarray:
    """(N, 6): Oklab as seen with and without green receptors (Vienot, Brettel and Mollon 1999)."""
    light = _linear(colours)
    return np.concatenate([_oklab(light), _oklab(np.clip(light @ DEUTERANOPE.T, 0, 1))], axis=1)


def _hex(colour: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in colour))


def write_qml(path: Path, classes: Sequence[str], colours: np.ndarray) -> None:
    """A style for QGIS 3, which is found where it lies beside the map: x.qml beside x.tif.

    Args:
        path: the file.
        classes: names of the values 0..K-1 of band 1.
        colours: (K, 3) uint8.

    Raises:
        UserError: as `rsssl.engine.files.write_atomic`.
    """
    add = ElementTree.SubElement
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = add(root, "pipe")
    looks = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = add(pipe, "rasterrenderer", looks)
    add(renderer, "rasterTransparency")
    entries = add(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        add(entries, "paletteEntry", value=str(value), color=_hex(colour), label=printable(name), alpha="255")
    add(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    add(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    add(pipe, "rasterresampler", maxOversampling="2")
    add(root, "blendMode").text = "0"
    ElementTree.indent(root, " ")
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    write_atomic(path, head + ElementTree.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n")


@dataclass(frozen=True)
class Legend:
    """The classes of a map.

    Args:
        classes: K names.
        colours: (K, 3) uint8.
        pixels: (K,) pixels of each class in the full map; None where the picture is all there is.
        hectares: (K,) ground area of each class; None where unknown.
    """

    classes: Sequence[str]
    colours: np.ndarray
    pixels: np.ndarray | None = None
    hectares: np.ndarray | None = None

    def entries(self, pixels: np.ndarray) -> list[Entry]:
        """The classes that occur, by falling pixels (K,), and how many more there are than can be listed."""
        order = [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i] > 0]
        entries = []
        for i in order[:LISTED]:
            share = 100 * pixels[i] / int(pixels.sum())
            name = " ".join(printable(self.classes[i]).split())
            name = name if len(name) <= 28 else name[:27] + "…"
            area = "" if self.hectares is None else _hectares(float(self.hectares[i]))
            text = f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"
            entries.append(Entry(name, text, area, {"facecolor": _hex(self.colours[i]), "linewidth": 0}))
        if not order:
            return [Entry("no class occurs")]
        return entries if len(order) <= LISTED else [*entries, Entry(f"and {len(order) - LISTED} more")]


class Entry(NamedTuple):
    """A line of a legend.

    Args:
        name: of a class.
        share: of the map.
        area: of the class.
        swatch: how matplotlib draws the rectangle at its left; None for no rectangle.
    """

    name: str
    share: str = ""
    area: str = ""
    swatch: dict[str, Any] | None = None


def _hectares(area: float) -> str:
    if np.isnan(area):
        return "unknown"
    return f"{area:,.0f} ha" if area >= 100 else f"{area:.1f} ha" if area >= 10 else f"{area:.2f} ha"


def preview_png(image: np.ndarray, legend: Legend, title: str = "", scene: np.ndarray | None = None) -> bytes:
    """A PNG of a class map with a legend of the classes that occur, the largest first; at its left the scene, if given.

    Args:
        image: (h, w) class numbers, of the size to be shown; any outside 0..K-1 is nodata.
        legend: the classes.
        title: stands above.
        scene: (h, w, 3) uint8 of the same place.

    Raises:
        UserError: without matplotlib.
    """
    k = len(legend.classes)
    numbers = np.where((image < 0) | (image.astype(np.int64) >= k), k, image).astype(np.int64)
    shown = np.bincount(numbers.ravel(), minlength=k + 1)
    entries = legend.entries(shown[:k] if legend.pixels is None else np.asarray(legend.pixels))
    if shown[k]:
        swatch = {"facecolor": NOTHING, "edgecolor": LINE, "hatch": "//////", "linewidth": 0.6}
        entries.append(Entry("no data", swatch=swatch))
    rgba = np.zeros((k + 1, 4), np.uint8)
    rgba[:k] = np.concatenate([legend.colours, np.full((k, 1), 255)], axis=1)
    pictures = {"Classes": rgba[numbers]} if scene is None else {"Scene": scene, "Classes": rgba[numbers]}
    return _draw(pictures, entries, title)


def _draw(pictures: dict[str, np.ndarray], entries: list[Entry], title: str) -> bytes:
    """The PNG. All places are in inches, from the left and from the top."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"the preview needs matplotlib ({error}): type pip install matplotlib") from error
    h, w = pictures["Classes"].shape[:2]
    ratio = float(np.clip(h / w, 1 / 8, 8))  # a strip of a few pixels is widened, so that it can be seen
    wide = min(5.6, 5.6 / ratio) if ratio > 0.45 else 9.0
    high, margin, headed = wide * ratio, 0.25, len(pictures) > 1
    top = margin + (0.42 if title else 0.0) + (0.26 if headed else 0.0)
    stacked = ratio <= 0.45  # a wide scene above its map
    across, down = (1, len(pictures)) if stacked else (len(pictures), 1)
    left = margin + across * (wide + margin) + 0.1
    height = max(top + down * high + (down - 1) * 0.42, top + 0.1 + len(entries) * STEP) + margin
    style: dict[str, Any] = {"font.size": 9, "text.parse_math": False, "text.color": INK}
    style |= {"hatch.linewidth": 0.6, "hatch.color": LINE}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # a box for what the font lacks is good enough
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)  # type: ignore[arg-type]
        shares, areas = _columns(entries)
        width = max(left + areas + margin, 2 * margin + _inches(title, size=13, weight="bold"))
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        for i, (heading, array) in enumerate(pictures.items()):
            x, y = margin + (0 if stacked else i * (wide + margin)), top + (i * (high + 0.42) if stacked else 0)
            panel = figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))
            panel.set(xticks=[], yticks=[], facecolor=NOTHING)
            panel.patch.set(hatch="////", edgecolor=LINE, linewidth=0)
            panel.spines[:].set(color="#b0b0b0", linewidth=0.6)
            panel.imshow(array, aspect="auto", interpolation="nearest")
            if headed:
                figure.text(x / width, 1 - (y - 0.07) / height, heading, va="bottom", color=GREY, fontsize=9)
        if title:
            figure.text(margin / width, 1 - margin / height, title, va="top", fontsize=13, fontweight="bold")
        _draw_legend(figure, entries, (left, left + shares, left + areas), top + 0.1)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    return png.getvalue()


def _columns(entries: list[Entry]) -> tuple[float, float]:
    """Where the shares of a legend end, and where its areas do, in inches from its left."""
    shares = INDENT + max(_inches(entry.name) + bool(entry.share) * (GAP + _inches(entry.share)) for entry in entries)
    areas = max(_inches(entry.area) for entry in entries)
    return shares, shares + bool(areas) * (GAP + areas)


def _inches(words: str, **font: Any) -> float:
    """How wide words are drawn, in inches; those of the style in force, but for `font`."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    drawn = RendererAgg(1, 1, DPI).get_text_width_height_descent(words, FontProperties(**font), ismath=False)
    return float(drawn[0]) / DPI


def _draw_legend(figure: Any, entries: list[Entry], columns: tuple[float, float, float], top: float) -> None:
    """One entry below the other: from the first of the columns, inches from the left; shares end at the second, areas
    at the last."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    for line, entry in enumerate(entries):
        y = top + line * STEP
        if entry.swatch is not None:
            corner = (columns[0] / width, 1 - (y + 0.075) / height)
            size = 0.24 / width, 0.15 / height
            figure.add_artist(Rectangle(corner, *size, transform=figure.transFigure, **entry.swatch))
        indent, ink = (INDENT if line or entry.swatch else 0), (INK if entry.share else GREY)
        for x, text, side, colour in (
            (columns[0] + indent, entry.name, "left", ink),
            (columns[1], entry.share, "right", INK),
            (columns[2], entry.area, "right", GREY),
        ):
            figure.text(x / width, 1 - y / height, text, va="center", ha=side, color=colour)
