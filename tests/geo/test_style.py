"""Colours, the style for QGIS read back by an XML parser, and the preview read back by Pillow."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rsssl.geo.style import Legend, palette, preview_png, printable, write_qml


@pytest.mark.parametrize("n", [1, 2, 7, 10, 45, 300, 1000])
def test_colours_are_distinct_and_neither_black_nor_white(n: int) -> None:
    colours = palette(n)
    assert colours.shape == (n, 3) and colours.dtype == np.uint8
    assert len({tuple(c) for c in colours.tolist()} - {(0, 0, 0), (255, 255, 255)}) == n
    assert np.array_equal(colours, palette(1000)[:n])


def test_the_first_colours_lie_far_apart() -> None:
    def nearest(n: int) -> float:
        colours = palette(n).astype(float)
        gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(n)
        return float(gaps.min())

    assert nearest(7) > 60 and nearest(20) > 50 and nearest(60) > 25
    assert palette(70000).shape == (70000, 3)


def test_a_caller_may_change_its_colours() -> None:
    palette(5)[:] = 0
    assert palette(5).any()


def test_qgis_gets_names_and_colours(tmp_path: Path) -> None:
    names = ["Sea & <Lake>", 'the "one"', "Wald ä 水", "bad \x01 \udcff", "line\nbreak"]
    colours = palette(5)
    write_qml(tmp_path / "map.qml", names, colours)
    root = ElementTree.parse(tmp_path / "map.qml").getroot()
    assert root.tag == "qgis"
    renderer = root.find("pipe/rasterrenderer")
    assert renderer is not None and renderer.get("type") == "paletted" and renderer.get("band") == "1"
    entries = renderer.findall("colorPalette/paletteEntry")
    assert [e.get("value") for e in entries] == ["0", "1", "2", "3", "4"]
    assert [e.get("label") for e in entries] == [*names[:3], "bad \ufffd \ufffd", "line\nbreak"]
    assert [bytes.fromhex(str(e.get("color"))[1:]) for e in entries] == [bytes(c) for c in colours.tolist()]
    assert {e.get("alpha") for e in entries} == {"255"}


def test_printable_names_stay() -> None:
    assert (
        printable("Sea & Lake ä 水 \U0001f30a") == "Sea & Lake ä 水 \U0001f30a"
        and printable("\x00\ud800") == "\ufffd\ufffd"
    )


def colours_in(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        counted = picture.convert("RGB").getcolors(1 << 24)
    assert counted is not None
    return {tuple(colour) for number, colour in counted if number >= 20}


@pytest.mark.parametrize("with_scene", [False, True])
def test_a_preview_shows_the_classes_that_occur(tmp_path: Path, with_scene: bool) -> None:
    names, colours = [f"class $\\{i}$" for i in range(10)], palette(10)
    image = np.full((60, 80), 255, np.uint8)
    image[:40, :30], image[:40, 30:] = 2, 7
    scene = np.full((60, 80, 3), (12, 34, 56), np.uint8) if with_scene else None
    legend = Legend(names, colours, hectares=np.arange(10) * 123.4)
    (tmp_path / "a.png").write_bytes(preview_png(image, legend, "50 % of $x", scene))
    seen = colours_in(tmp_path / "a.png")
    assert [i for i in range(10) if tuple(colours[i].tolist()) in seen] == [2, 7]
    assert ((12, 34, 56) in seen) == with_scene
    again = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(preview_png(image, legend, "50 % of $x", scene))
    assert (tmp_path / "a.png").read_bytes() == again and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_legend_follows_the_full_map(tmp_path: Path) -> None:
    colours = palette(3)
    legend = Legend(["a", "b", "c"], colours, np.array([5, 90, 0]))
    (tmp_path / "a.png").write_bytes(preview_png(np.zeros((9, 9), np.uint8), legend))
    seen = colours_in(tmp_path / "a.png")
    assert [tuple(c) in seen for c in colours.tolist()] == [
        True,
        True,
        False,
    ]  # b is too small to be seen in the picture


@pytest.mark.parametrize("scene", [None, np.zeros((60, 80, 3), np.uint8)])
@pytest.mark.parametrize("title", ["", "t" * 200])
@pytest.mark.parametrize("name", ["a", "W" * 28, "$x$ $\\frac{"])
def test_the_legend_is_as_wide_as_its_words(tmp_path: Path, name: str, title: str, scene: np.ndarray | None) -> None:
    """Nothing is cut at the right edge, and where no title is longer no more than the margin is left empty there."""
    legend = Legend([name, "b"], palette(2), hectares=np.array([12345.0, 6.0]))
    (tmp_path / "a.png").write_bytes(preview_png(np.zeros((60, 80), np.uint8), legend, title, scene))
    with Image.open(tmp_path / "a.png") as picture:
        inked = np.flatnonzero((np.asarray(picture.convert("L")) < 200).any(0))
        assert 0.1 < (picture.width - 1 - inked[-1]) / 150 < 0.4, "inches"


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_odd_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    legend, scene = Legend(["a", "b"], palette(2)), np.zeros((*shape, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(preview_png(np.ones(shape, np.int64), legend, scene=scene))
    assert tuple(palette(2)[1].tolist()) in colours_in(tmp_path / "a.png")


def test_nothing_but_nodata(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(
        preview_png(np.full((30, 40), -1), Legend(["a"], palette(1), hectares=np.array([np.nan])))
    )
    assert tuple(palette(1)[0].tolist()) not in colours_in(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_more_classes_than_a_legend_holds(tmp_path: Path) -> None:
    image = np.arange(300).repeat(16).reshape(60, 80).astype(np.uint16)
    legend = Legend([f"水 class {i} of a long list of classes" for i in range(300)], palette(300))
    (tmp_path / "a.png").write_bytes(preview_png(image, legend))
    seen = colours_in(tmp_path / "a.png")
    assert all(tuple(c) in seen for c in palette(300).tolist())
