"""Colours of classes: those given, those that a QGIS style holds, the usual ones, and no two alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsssl.geo.colours import APART, USUAL, as_rgb, colours_of, of_style, usual
from rsssl.geo.style import distances, palette

STYLE = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22"><renderer-v2 type="categorizedSymbol" attr="class">
<categories><category value="water" symbol="0" label="water"/><category value="wood" symbol="1" label="wood"/>
<category value="" symbol="2" label="rest"/></categories>
<symbols>
<symbol name="0" type="marker"><layer class="SimpleMarker"><Option type="Map">
<Option name="angle" value="0" type="QString"/><Option name="color" value="12,34,56,255" type="QString"/>
<Option name="outline_color" value="1,1,1,255" type="QString"/></Option></layer></symbol>
<symbol name="1" type="fill"><layer class="SimpleFill"><prop k="color" v="200,100,0,255"/></layer></symbol>
<symbol name="2" type="fill"><layer class="SimpleFill"><prop k="color" v="9,9,9,255"/></layer></symbol>
</symbols></renderer-v2></qgis>"""


def test_given_colours_win_and_usual_ones_follow() -> None:
    colours = colours_of(["SeaLake", "Forest", "field", "xyz"], {"forest": "#010203"})
    assert colours[1].tolist() == [1, 2, 3]
    assert colours[0].tolist() == as_rgb("#2b6cb0").tolist(), "water is blue"
    assert usual("AnnualCrop") == usual("crops") and usual("PermanentCrop") == usual("fields") and not usual("xyz")


@pytest.mark.parametrize(
    "classes",
    [
        ["water", "urban", "beach", "vegetation"],
        [
            "Annual Crop",
            "Forest",
            "Herbaceous",
            "Highway",
            "Industrial",
            "Pasture",
            "Orchard",
            "City",
            "River",
            "SeaLake",
        ],
        ["river", "lake", "sea", "pond", "ocean", "reservoir", "canal"],
        [f"class {i}" for i in range(40)],
    ],
)
def test_no_two_classes_look_alike(classes: list[str]) -> None:
    colours = colours_of(classes)
    apart = distances(colours, colours) + 9 * np.eye(len(classes))
    assert apart.min() >= (APART if len(classes) < 20 else 0.02)


def test_classes_that_nobody_knows_keep_their_colours() -> None:
    names = [f"x{i}" for i in range(30)]
    assert np.array_equal(colours_of(names), palette(30))


def test_every_usual_colour_is_told_apart_from_those_of_other_classes() -> None:
    for words, colours in USUAL:
        for other, others in USUAL:
            if other != words:
                ours, theirs = (np.stack([as_rgb(c) for c in some[:1]]) for some in (colours, others))
                assert distances(ours, theirs).min() > 0.05, (words[0], other[0])


def test_a_qgis_style_beside_the_labels_is_read(tmp_path: Path) -> None:
    (tmp_path / "points.qml").write_text(STYLE)
    expected = {"water": "#0c2238", "wood": "#c86400"}
    assert of_style(str(tmp_path / "points.shp")) == expected
    (tmp_path / "points.qml").write_text("<qgis")
    assert of_style(str(tmp_path / "points.shp")) == {} == of_style(str(tmp_path / "nothing.shp"))
    ogr = pytest.importorskip("osgeo.ogr")
    source = ogr.GetDriverByName("GPKG").CreateDataSource(str(tmp_path / "kept.gpkg"))
    source.CreateLayer("labels", None, ogr.wkbPoint)
    styles = source.CreateLayer("layer_styles", None, ogr.wkbNone)
    for name, kind in (("styleQML", ogr.OFTString), ("useAsDefault", ogr.OFTInteger)):
        styles.CreateField(ogr.FieldDefn(name, kind))
    for text, default in ((STYLE.replace("12,34,56", "1,1,1"), 0), (STYLE, 1)):
        row = ogr.Feature(styles.GetLayerDefn())
        row.SetField("styleQML", text)
        row.SetField("useAsDefault", default)
        styles.CreateFeature(row)
    del row, styles, source
    assert of_style(str(tmp_path / "kept.gpkg")) == expected
