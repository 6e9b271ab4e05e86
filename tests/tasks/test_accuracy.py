"""`task=accuracy` as a user types it, on a map and points whose figures are worked out here."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from rsssl.engine.outputs import write_record
from rsssl.geo.good_practice import Z95, estimate
from rsssl.tasks.accuracy import targets

gdal = pytest.importorskip("osgeo.gdal")
from osgeo import ogr, osr  # noqa: E402

NAMES = ["crop", "[water]", "forest", "ice"]  # brackets: what rich takes for markup


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """map.tif: 100 x 100 pixels of 10 m; 70 columns of crop, 20 of water, 9 of forest, 1 of ice; points.geojson."""
    folder = tmp_path_factory.mktemp("accuracy")
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(32632)
    values = np.repeat(np.array([0, 1, 2, 3], np.uint8), [70, 20, 9, 1])[None].repeat(100, 0)
    made = gdal.GetDriverByName("GTiff").Create(str(folder / "map.tif"), 100, 100, 1, gdal.GDT_Byte)
    made.SetProjection(srs.ExportToWkt())
    made.SetGeoTransform([500_000, 10, 0, 5_600_000, 0, -10])
    made.GetRasterBand(1).WriteRaster(0, 0, 100, 100, values.tobytes())
    made.GetRasterBand(1).SetCategoryNames(NAMES)
    made.FlushCache()
    del made
    table = ogr.GetDriverByName("GPKG").CreateDataSource(str(folder / "points.gpkg"))
    layer = table.CreateLayer("points", srs)
    layer.CreateField(ogr.FieldDefn("cover", ogr.OFTString))
    for i, (column, name) in enumerate(
        [
            *[(5, "crop")] * 18,
            *[(6, "forest")] * 2,
            *[(75, "[Water]")] * 9,
            (75, "crop"),
            *[(95, "forest")] * 7,
            *[(95, "crop")] * 3,
            (100, "crop"),
        ]
    ):
        feature = ogr.Feature(layer.GetLayerDefn())
        point = ogr.Geometry(ogr.wkbPoint)
        point.AddPoint_2D(500_005 + 10 * column, 5_599_995 - 10 * i)
        feature.SetGeometry(point)
        feature.SetField("cover", name)
        layer.CreateFeature(feature)
    del feature, layer, table
    return folder


def test_the_command(workshop, folder: Path) -> None:
    command = ["task=accuracy", "class_map=map.tif", "reference=points.gpkg", "field=cover"]
    text = workshop.run(folder, *command)
    got = json.loads((folder / "map_accuracy.json").read_text())
    assert not (folder / "runs").exists(), "the record lies beside the map"
    counts = np.array([[18, 0, 2, 0], [1, 9, 0, 0], [3, 0, 7, 0], [0, 0, 0, 0]])
    assert got["confusion"] == counts.tolist() and got["classes"] == NAMES and got["n_samples"] == 40
    assert got["left_out"] == {"outside": 1, "nodata": 0, "unlabelled": 0, "unplaced": 0}
    assert got["of_samples"]["oa"] == pytest.approx(34 / 40)
    chance = (20 * 22 + 10 * 9 + 10 * 9) / 1600
    assert got["of_samples"]["kappa"] == pytest.approx((34 / 40 - chance) / (1 - chance))
    assert got["of_area"]["oa"] == pytest.approx((70 * 0.9 + 20 * 0.9 + 9 * 0.7) / 99)
    assert "are right" not in text
    assert got["of_area"]["covered"] == pytest.approx(0.99, abs=1e-4)  # nothing lies in the ice
    mapped = np.array([got["per_class"][name]["mapped"] for name in NAMES])
    assert got["area_unit"] == "ha"
    np.testing.assert_allclose(mapped, [70, 20, 9, 1], rtol=0.002)  # on the ground: UTM's scale is 0.9996 here
    expected = estimate(counts, mapped)
    for i, name in enumerate(NAMES[:3]):
        line = got["per_class"][name]
        assert line["area"] == pytest.approx(expected.areas[i]) and line["users"] == pytest.approx(expected.users[i])
        assert line["area_ci95"] == pytest.approx(Z95 * expected.areas_se[i])
        assert line["producers_ci95"] == pytest.approx(Z95 * expected.producers_se[i])
        assert f"{expected.areas[i]:,.1f} ± {Z95 * expected.areas_se[i]:,.1f}" in text.replace("+/-", "±")
    assert got["per_class"]["ice"]["area"] is None and "No sample lies in what is mapped as ice" in text
    assert "[water]" in text and "1 outside" in text and "OA 85.0 %" in text
    rows = list(csv.reader((folder / "map_confusion.csv").open()))
    assert rows[0][1:] == [*NAMES, "sum"] and rows[1] == ["crop", "18", "0", "2", "0", "20"] and rows[-1][-1] == "40"

    workshop.run(folder, "task=accuracy", "class_map=map.tif", "reference=map.tif", "out=tables/itself.json")
    itself = json.loads((folder / "tables" / "itself.json").read_text())
    assert itself["of_area"]["oa"] == pytest.approx(1) and itself["kind"] == "pixels" and itself["n_samples"] == 10_000
    assert (folder / "tables" / "itself.csv").is_file()

    layer = """reference="points.gpkg|layername=points\""""
    text = workshop.run(folder, "task=accuracy", "class_map=map.tif", layer, "field=cower", exits=2)
    assert "no field 'cower'" in text and "field=cover" in text and "Traceback" not in text


def test_paths_below_home_and_a_csv(workshop, folder: Path) -> None:
    (folder / "points.csv").write_text("x,y,class\n500005,5599995,crop\n500955,5599995,forest\n500955,5599985,\n")
    text = workshop.run(
        folder,
        "task=accuracy",
        'class_map="~/map.tif"',
        'reference="~/points.csv"',
        'out="~/home"',
        env={"HOME": str(folder)},
    )
    got = json.loads((folder / "home.json").read_text())
    assert got["n_samples"] == 2 and got["of_samples"]["oa"] == 1 and got["left_out"]["unlabelled"] == 1
    assert "1 without a class, 0 without a place" in text and "map's CRS" in got["notes"][0]
    layer = """reference="~/points.gpkg|layername=points\""""
    workshop.run(
        folder,
        "task=accuracy",
        'class_map="~/map.tif"',
        layer,
        "field=cover",
        'out="~/home"',
        env={"HOME": str(folder)},
    )
    assert json.loads((folder / "home.json").read_text())["n_samples"] == 40


def test_all_right_is_not_perfect_and_absent_classes_have_no_row(workshop, folder: Path) -> None:
    lines = [f"{500_005 + 10 * (75 + i)},5599995,[water]" for i in range(4)] + ["500005,5599995,crop"]
    (folder / "few.csv").write_text("\n".join(["x,y,class", *lines]) + "\n")
    crop = gdal.Translate(str(folder / "west.tif"), gdal.Open(str(folder / "map.tif")), srcWin=[0, 0, 90, 100])
    del crop
    text = workshop.run(folder, "task=accuracy", "class_map=west.tif", "reference=few.csv")
    least = beta.ppf(0.025, 4, 1)  # of four, all right: the exact interval's lower end
    assert "All 4 samples in what is mapped as [water] are right." in text and f"{100 * least:.0f} % or more" in text
    assert "One sample alone lies in what is mapped as crop" in text
    table = text.partition("User's")[2]
    assert "forest" not in table and "ice" not in table


def test_two_ranks_write_once(workshop, folder: Path) -> None:
    command = ["task=accuracy", "class_map=map.tif", "reference=points.gpkg", "field=cover", "out=two"]
    text = workshop.run(folder, *command, ranks=2)
    assert text.count("OA 85.0 %") == 1


def test_where_the_files_go(tmp_path: Path) -> None:
    assert targets(None, "a/b.c.tif") == (Path("a/b.c_accuracy.json"), Path("a/b.c_confusion.csv"))
    assert targets(str(tmp_path), "map.tif") == (tmp_path / "accuracy.json", tmp_path / "confusion.csv")
    for out in ("a/b.c", "a/b.c.json", "a/b.c.csv"):
        assert targets(out, "map.tif") == (Path("a/b.c.json"), Path("a/b.c.csv"))


@pytest.mark.parametrize("where", ["the command's own labels", "the classifier's run folder", "a copy", "others"])
def test_labels_that_the_classifier_learnt_from_are_told_apart(
    workshop, folder: Path, tmp_path: Path, where: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    labels = {"dataset": {"labels": ["points.gpkg"]}}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.yaml").write_text(json.dumps(labels))
    from_run = {"dataset": {"labels": None}, "checkpoint": "runs"}
    write_record(tmp_path / "map.tif", {"config": from_run if "run folder" in where else labels})
    reference = "points.gpkg"
    if where in ("a copy", "others"):
        reference = "other.gpkg"
        shutil.copy(tmp_path / "points.gpkg", tmp_path / reference)
    if where == "others":
        made = gdal.OpenEx(str(tmp_path / reference), gdal.OF_VECTOR | gdal.OF_UPDATE)
        made.GetLayer(0).DeleteFeature(1)
        del made
    text = workshop.run(tmp_path, "task=accuracy", "class_map=map.tif", f"reference={reference}", "field=cover")
    got = json.loads((tmp_path / "map_accuracy.json").read_text())
    assert got["seen"] == (where != "others") == ("is what the map's classifier was trained from" in text)
