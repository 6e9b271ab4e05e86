"""From a scene and points drawn on it to a map, its accuracy and places to label next, each by one command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsssl.data.raster import import_gdal, write_geotiff
from rsssl.networks.files import CLASSIFIER, read_classifier
from rsssl.networks.load import load_backbone

pytest.importorskip("osgeo")
SIDE, PIXEL = 320, 10.0
ORIGIN = 500_000.0, 5_600_000.0
NETWORK = ["ssl=none", "start=random", "backbone.name=resnet10t", "pretrain.minutes=null", "baselines=false"]
SCENE = ["dataset=scene", "dataset.scenes=scene.tif", "dataset.labels=points.csv", "dataset.window=16", "workers=1"]


def kinds() -> np.ndarray:
    """(SIDE, SIDE) the class of each pixel: squares of 80 pixels."""
    y, x = np.mgrid[:SIDE, :SIDE] // 80
    return ((x + 2 * y) % 3).astype(int)


def scene(folder: Path, frame: bool = False) -> None:
    """Three textures in squares; on request with a frame of 255."""
    draw, kind = np.random.default_rng(0), kinds()
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.stack([np.sin(x / 1.5), np.sin(y / 4), np.zeros_like(x, float)])
    plane = 90 + 40 * np.take_along_axis(waves, kind[None], 0)[0] + 25 * kind
    pixels = np.clip(plane + draw.normal(0, 6, (3, SIDE, SIDE)), 1, 250).astype(np.uint8)
    if frame:
        pixels[:, x + y < 60] = 255
    gdal, osr = import_gdal("scene"), import_gdal("scene", "osr")
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(32632)
    write_geotiff(folder / "scene.tif", pixels)
    made = gdal.Open(str(folder / "scene.tif"), gdal.GA_Update)
    made.SetGeoTransform((ORIGIN[0], PIXEL, 0, ORIGIN[1], 0, -PIXEL))
    made.SetProjection(srs.ExportToWkt())
    del made


def points(folder: Path, name: str, n: int, seed: int) -> None:
    """So many points of each class, well inside their squares, as x and y in the scene's CRS."""
    draw, kind, lines = np.random.default_rng(seed), kinds(), ["x,y,class"]
    for c in range(3):
        rows, cols = np.nonzero(kind == c)
        inside = (np.abs(rows % 80 - 40) < 30) & (np.abs(cols % 80 - 40) < 30)
        for i in draw.choice(np.flatnonzero(inside), n, replace=False):
            x, y = ORIGIN[0] + (cols[i] + 0.5) * PIXEL, ORIGIN[1] - (rows[i] + 0.5) * PIXEL
            lines.append(f"{x},{y},{['wood', 'water', 'field'][c]}")
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    scene(folder)
    points(folder, "points.csv", 12, 0)
    points(folder, "test.csv", 8, 1)
    return folder


ONE_COMMAND = ["task=map", *SCENE, *NETWORK, "dataset.test=test.csv", "dataset.block=80", "out=map.tif"]
ONE_COMMAND += ["map.coverage=0.9", "map.unlike=true", "map.page=true"]


def test_one_command_makes_a_map_with_its_accuracy_and_makes_nothing_twice(workshop: Any, place: Path) -> None:
    words = ONE_COMMAND
    text = workshop.run(place, *words)
    accuracy = json.loads((place / "map_accuracy.json").read_text())
    results = json.loads((place / "map_classifier" / "results.json").read_text())
    assert accuracy["of_samples"]["oa"] > 0.8 and accuracy["kind"] == "points" and "map.html" in text
    assert results["split"] == "80 m apart" and results["n_test"] == accuracy["n_samples"] <= 24
    gdal = import_gdal("map")
    opened = gdal.Open(str(place / "map.tif"))
    mapped = np.frombuffer(opened.ReadRaster(), np.uint8).reshape(SIDE, SIDE)
    order = {name: i for i, name in enumerate(("field", "water", "wood"))}
    truth = np.array([order["wood"], order["water"], order["field"]])[kinds()]
    assert (mapped == truth).mean() > 0.7
    sets = gdal.Open(str(place / "map_plausible.tif"))
    assert set(np.unique(np.frombuffer(sets.ReadRaster(), np.uint8))) <= {0, 1, 2, 3}
    unlike = gdal.Open(str(place / "map_unlike.tif"))
    assert unlike.RasterCount == 2 and unlike.GetRasterBand(1).GetScale() == pytest.approx(1e-3)
    html = (place / "map.html").read_text()
    recalls = {name: f"{100 * recall:.1f} %" for name, recall in results["per_class"].items()}
    rows = dict(re.findall(r"</i>(\w+)</td>.*<td>([^<]*)</td></tr>", html))
    assert rows == recalls and "<title>map: scene.tif</title>" in html
    assert "command: rsssl-run task=map dataset=scene dataset.scenes=scene.tif" in html
    printed = dict(re.findall(r"^  (\w+) .* ha  recall +(.*)$", text, re.MULTILINE))
    assert printed == recalls and "by labels that the map has not seen: rsssl-run task=accuracy" in text
    assert "http://" not in html and "https://" not in html and html.count("data:image/") == 2 and "hectares" in html
    before = {f.name: f.stat().st_mtime_ns for f in place.glob("map*.tif")}
    again = workshop.run(place, *words)
    assert again.count("stands already") == 2
    assert {f.name: f.stat().st_mtime_ns for f in place.glob("map*.tif")} == before


def test_a_finished_classifier_maps_the_scenes_of_a_dataset(workshop: Any, place: Path, tmp_path: Path) -> None:
    workshop.run(place, *ONE_COMMAND)  # unless this process ran it already
    words = ["task=map", "dataset=scene", "dataset.scenes=scene.tif", f"out={tmp_path / 'again.tif'}"]
    workshop.run(place, *words, "checkpoint=map_classifier")
    first, again = (
        import_gdal("map").Open(str(file)).ReadRaster() for file in (place / "map.tif", tmp_path / "again.tif")
    )
    assert first == again and not (tmp_path / "again_classifier").exists()


def test_without_a_test_set_all_labels_are_learnt_from_and_cross_validation_tests(
    workshop: Any, place: Path, tmp_path: Path
) -> None:
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.tif"
        job = {"ranks": ranks} if ranks > 1 else {}
        workshop.run(place, "task=map", *SCENE, *NETWORK, "dataset.block=80", f"out={out}", **job)
        results = json.loads((tmp_path / f"{ranks}_classifier" / "results.json").read_text())
        assert results["n_train"] == results["n_drawn"] == 36 and results["split"].startswith("cross-validation")
        assert (
            results["oa"] == pytest.approx(np.trace(results["confusion"]) / results["n_test"]) and results["oa"] > 0.7
        )
        assert not (tmp_path / f"{ranks}_accuracy.json").exists()
        found.append((out.read_bytes(), results["confusion"]))
    assert found[0] == found[1]


def test_the_baseline_of_image_statistics_can_be_mapped_with(workshop: Any, place: Path, tmp_path: Path) -> None:
    """`evaluate=statistics` is the classifier whose figures stand beside other results, without any training."""
    scene = [*SCENE, "start=random", "backbone.name=resnet10t", "dataset.block=80"]
    job = ["ssl=none", "evaluate=linear", "dataset.test_fraction=0", "ts=all", f"hydra.run.dir={tmp_path}"]
    workshop.run(place, "task=evaluate", *scene, *job)
    baselines = json.loads((tmp_path / "results.json").read_text())["baselines"]
    out = tmp_path / "map.tif"
    text = workshop.run(place, "task=map", *scene, "evaluate=statistics", f"out={out}")
    results = json.loads((tmp_path / "map_classifier" / "results.json").read_text())
    assert results["confusion"] == baselines["image_statistics"]["confusion"] and results["oa"] > 0.7
    assert results["baselines"].keys() == {"random_init"} and results["pretrain"] is None
    assert re.search(r"^  image statistics +OA", text, re.MULTILINE)
    network = load_backbone(Path(results["data"]["weights"]))  # as good a checkpoint as any: it sees what it is used to
    classifier = read_classifier(tmp_path / "map_classifier" / CLASSIFIER)
    assert set(network.preprocess.std) != {1.0} == set(classifier.preprocess.std)
    mapped = np.frombuffer(import_gdal("map").Open(str(out)).ReadRaster(), np.uint8).reshape(SIDE, SIDE)
    assert (mapped == np.array([2, 1, 0])[kinds()]).mean() > 0.7  # field, water, wood by name


def test_places_to_label_come_back_as_labels(workshop: Any, place: Path, tmp_path: Path) -> None:
    gdal = import_gdal("places")
    out = tmp_path / "next.gpkg"
    words = ["task=suggest", *SCENE, *NETWORK[:-1], "suggest.n=6", f"out={out}"]
    text = workshop.run(place, *words)
    assert "QGIS" in text and "'dataset.labels=[OLD.gpkg,THIS.gpkg]'" in text and "fixed test set" not in text
    opened = gdal.OpenEx(str(out), gdal.OF_VECTOR | gdal.OF_UPDATE)
    layer = opened.GetLayer(0)
    rows = [(f.GetField("class"), f.GetField("rank"), f.GetField("window")) for f in layer]
    assert [(c, r) for c, r, _ in rows] == [(None, i) for i in range(1, 7)]
    kind = kinds()
    for feature in list(layer):
        row, col = (int(v[1:]) for v in feature.GetField("window").rsplit("/", 1)[1].split("_"))
        feature.SetField("class", ["wood", "water", "field"][kind[row + 8, col + 8]])
        layer.SetFeature(feature)
    del feature, layer, opened
    with open(place / "points.csv") as file:
        before = len(list(csv.DictReader(file)))
    words = ["task=pack", *SCENE, f"dataset.labels=[points.csv,{out}]"]
    counted = workshop.run(place, *words)
    images = [
        int(line.split()[-2]) for line in counted.splitlines() if line.strip().startswith(("wood", "water", "field"))
    ]
    assert sum(images) == before + 6


def test_a_frame_stops_until_somebody_says_what_it_is(workshop: Any, tmp_path: Path) -> None:
    scene(tmp_path, frame=True)
    points(tmp_path, "points.csv", 8, 0)
    words = ["task=map", *SCENE, *NETWORK, "dataset.block=80", "out=map.tif"]
    error = workshop.run(tmp_path, *words, exits=2)
    assert "a frame of 255 in all bands" in error and "scene_nodata=255" in error and "scene_nodata=none" in error
    assert not (tmp_path / "map_classifier").exists()
    workshop.run(tmp_path, *words, "scene_nodata=255")
    opened = import_gdal("map").Open(str(tmp_path / "map.tif"))
    mapped = np.frombuffer(opened.ReadRaster(), np.uint8).reshape(SIDE, SIDE)
    y, x = np.mgrid[:SIDE, :SIDE]
    assert ((mapped == 255) == (x + y < 60)).all(), "all of the scene is mapped, and none of its frame"
    order = {name: i for i, name in enumerate(("field", "water", "wood"))}
    truth = np.array([order["wood"], order["water"], order["field"]])[kinds()]
    fringe = (x + y >= 60) & (x + y < 80) & (x < 70) & (y < 70)
    assert (mapped == truth)[fringe].mean() > 0.7, "no other class along the frame"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset.window=400"], "has 320 x 320 pixels, less than a window of 400: type dataset.window=320"),
        (["dataset.labels=nowhere.gpkg"], "dataset.labels=nowhere.gpkg does not exist: type dataset.labels=FILE"),
        (["dataset.field=clas"], "no field 'clas'; its fields are class: type for example dataset.field=class"),
        (["dataset.inside=2"], "type dataset.inside=0.5"),
        (["dataset.nodata=white"], "dataset.nodata=white is no number: type for example dataset.nodata=0"),
        (["dataset.test=points.csv", "dataset.labels=null"], "type dataset.labels=FILE for those to learn from"),
        (["dataset.colours={wood: green}"], "dataset.colours has green for wood: type a colour as six digits"),
    ],
)
def test_what_does_not_fit_is_told(workshop: Any, place: Path, tmp_path: Path, words: list[str], says: str) -> None:
    error = workshop.run(place, "task=pack", *SCENE, *words, f"paths.store={tmp_path}", exits=2)
    assert says in error and "Traceback" not in error


def test_a_scene_in_place_of_tiles_is_told_what_to_type(workshop: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "scene.tif").write_bytes((place / "scene.tif").read_bytes())
    for root in ("folder", "folder/scene.tif"):
        error = workshop.run(tmp_path, "task=pack", "dataset=folder", f"dataset.root={root}", exits=None)
        assert "type dataset=scene dataset.scenes=" in error
