"""Damaged references of a map, and lists of files: figures or a list come of them, or a sentence says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from rsssl.data.lists import listed_paths
from rsssl.data.raster import write_geotiff
from rsssl.errors import UserError
from rsssl.geo.class_map import ClassMap
from rsssl.geo.reference import compare

gdal = pytest.importorskip("osgeo.gdal")

Cases = Callable[[int], Iterator[Random]]
PLACE = (500_000.0, 10.0, 0.0, 5_600_000.0, 0.0, -10.0)
WORDS = [
    "0",
    "1",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "",
    "a",
    "é",
    '"',
    ",",
    "\n",
    "\0",
    "null",
    "[1]",
    "{}",
    "-",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A map of 20 x 20 pixels and references of it in several formats, by their names."""
    folder = tmp_path_factory.mktemp("references")
    values = np.repeat(np.arange(4, dtype=np.uint8), 5)[None].repeat(20, 0)
    write_geotiff(folder / "map.tif", values[None], PLACE, "EPSG:32632", None, ["class"])
    point = {"type": "Point", "coordinates": [9.0005, 50.5505]}
    ring = [[9.0, 50.55], [9.001, 50.55], [9.001, 50.551], [9.0, 50.55]]
    shapes = [point, {"type": "Polygon", "coordinates": [ring]}, {"type": "MultiPoint", "coordinates": [[9.0, 50.55]]}]
    features = [{"type": "Feature", "properties": {"class": i}, "geometry": s} for i, s in enumerate(shapes)]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (folder / "a.csv").write_text("x,y,class\n" + "".join(f"{500_005 + 50 * i},5599995,{i}\n" for i in range(4)))
    (folder / "b.csv").write_text("lon,lat,label\n9.0005,50.5505,1\n9.0006,50.5506,2\n")
    for suffix, driver in ((".gpkg", "GPKG"), (".fgb", "FlatGeobuf")):
        gdal.VectorTranslate(str(folder / f"a{suffix}"), str(folder / "a.geojson"), format=driver)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def damaged(random: Random, content: bytes, text: bool) -> bytes:
    """The same with a few bytes changed, cut, or with a part twice; of a text mostly a number or a word by another."""
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 4])):
        at = random.randrange(len(changed) + 1)
        if text and random.random() < 0.7:
            end = min(len(changed), at + random.randrange(8))
            changed[at:end] = random.choice(WORDS).encode()
        elif at < len(changed):
            changed[at] = random.choice([random.randrange(256), changed[at] ^ 1 << random.randrange(8), 0, 255])
    if random.random() < 0.1:
        del changed[random.randrange(len(changed) + 1) :]
    if random.random() < 0.1:
        changed += changed[random.randrange(len(changed) + 1) :]
    return bytes(changed)


def test_any_reference_is_compared_or_refused(cases: Cases, files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "map.tif").write_bytes(files["map.tif"])
    scene = ClassMap(tmp_path / "map.tif")
    names = sorted(files.keys() - {"map.tif"})
    for number, random in enumerate(cases(250)):
        name = random.choice(names)
        (tmp_path / name).write_bytes(damaged(random, files[name], name.endswith(("csv", "geojson"))))
        try:
            compare(scene, str(tmp_path / name), random.choice([None, None, "class", "a"]))
        except UserError:
            pass
        except BaseException as error:
            raise AssertionError(f"case {number}, {name}") from error


def test_any_class_map_is_read_or_refused(cases: Cases, files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "reference.csv").write_bytes(files["a.csv"])
    (tmp_path / "map.tif").write_bytes(files["map.tif"])
    for number, random in enumerate(cases(150)):
        (tmp_path / "changed.tif").write_bytes(damaged(random, files["map.tif"], False))
        given, reference = random.choice([("changed.tif", "reference.csv"), ("map.tif", "changed.tif")])
        try:
            compare(ClassMap(tmp_path / given), str(tmp_path / reference)).counts.sum()
        except UserError:
            pass
        except BaseException as error:
            raise AssertionError(f"case {number}") from error


def test_any_list_is_read_or_refused(cases: Cases, tmp_path: Path) -> None:
    table = 'path,class\na.tif,1\n"b, c.tif",2\né.tif,3\n'.encode()
    for number, random in enumerate(cases(300)):
        (tmp_path / "list").write_bytes(damaged(random, table, True))
        try:
            paths = listed_paths(tmp_path / "list", "images", random.random() < 0.7)
            assert all(line >= 1 and path.strip() == path != "" for line, path in paths)
        except UserError:
            pass
        except BaseException as error:
            raise AssertionError(f"case {number}") from error
