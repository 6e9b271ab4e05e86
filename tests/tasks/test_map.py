"""From a classifier to a georeferenced map, as a user types it; no training: random weights do as well here."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from rsssl.data.raster import import_gdal, write_geotiff
from rsssl.engine.files import write_sealed
from rsssl.evaluation.heads import LinearHead
from rsssl.geo.windows import kernel
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks.files import CLASSIFIER, read_classifier, write_classifier

pytest.importorskip("osgeo")
RGB = ("red", "green", "blue")
CLASSES = ("field", "forest & wood", "town", "water")
WINDOW, STRIDE = 32, 16


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a classifier of 3-band 32-pixel tiles whose head tells apart what a random network sees."""
    folder = tmp_path_factory.mktemp("run")
    card = SensorCard(
        "tiles",
        ("red", "green", "blue"),
        "uint8",
        (0.0,) * 3,
        (255.0,) * 3,
        None,
        (0.4,) * 3,
        (0.25,) * 3,
        CLASSES,
        (WINDOW, WINDOW),
        10.0,
    )
    backbone = build_backbone("resnet10t", 3)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        features = backbone.eval()(torch.randn(64, 3, WINDOW, WINDOW, generator=generator))
    weight = torch.randn(4, features.shape[1], generator=generator) / features.std(0).clamp_min(
        features.std(0).mean() / 10
    )
    bias = -(weight @ features.mean(0))
    preprocess = Preprocess(card, WINDOW, card.mean, card.std)
    write_classifier(folder / CLASSIFIER, LinearHead(weight, bias), preprocess, {}, backbone)
    return folder


def landscape(h: int, w: int, seed: int = 0) -> np.ndarray:
    """(3, h, w) uint8: patches of different texture."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    kind = ((y // 40 + 2 * (x // 56)) % 4).astype(int)
    textures = np.stack([np.sin(x / 2), np.sin(x / 5) * np.sin(y / 5), draws.normal(size=(h, w)), np.cos(y / 9)])
    plane = np.take_along_axis(textures, kind[None], 0)[0]
    gains = draws.uniform(30, 70, (3, 1, 1))
    return np.clip(100 + gains * plane + 10 * kind, 1, 254).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    gdal = import_gdal(path)
    source = gdal.Open(str(path))
    kind = {1: "u1", 2: "u2"}[source.GetRasterBand(1).DataType]
    return np.frombuffer(source.ReadRaster(), kind).reshape(source.RasterCount, source.RasterYSize, source.RasterXSize)


def expected(run_folder: Path, image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The probabilities (K, h, w) by a loop over windows, each a tile of its own."""
    classifier = read_classifier(run_folder / CLASSIFIER)
    h, w = image.shape[1:]
    valid = np.ones((h, w), bool) if valid is None else valid
    counts = [max(0, -(-(n - WINDOW) // STRIDE)) + 1 for n in (h, w)]
    far = [(n - 1) * STRIDE + WINDOW for n in counts]
    mirrored = np.pad(image, ((0, 0), (0, far[0] - h), (0, far[1] - w)), mode="symmetric").astype(np.float32)
    known = np.pad(valid, ((0, far[0] - h), (0, far[1] - w)))
    mirrored[:, np.pad(~valid, ((0, far[0] - h), (0, far[1] - w)), mode="symmetric")] = (
        np.nan
    )  # what shows nothing is the mean of what a window shows
    k = np.outer(kernel(WINDOW), kernel(WINDOW)).astype(float)
    sums, total = np.zeros((len(CLASSES), *far)), np.zeros(far)
    for y in range(0, far[0] - WINDOW + 1, STRIDE):
        for x in range(0, far[1] - WINDOW + 1, STRIDE):
            part = slice(y, y + WINDOW), slice(x, x + WINDOW)
            share = known[part].mean()
            if not share:
                continue
            share = share if share >= 0.5 else 1e-9 * share
            tile = mirrored[(slice(None), *part)]
            tile = np.where(np.isnan(tile), np.nanmean(tile, (1, 2), keepdims=True), tile).astype(np.float32)
            with torch.inference_mode():
                found = classifier(torch.from_numpy(tile)[None])[0].numpy()
            sums[(slice(None), *part)] += found[:, None, None] * k * share
            total[part] += k * share
    return sums[:, :h, :w] / np.maximum(total[:h, :w], 1e-30)


def agrees(made: np.ndarray, probabilities: np.ndarray, valid: np.ndarray | None = None) -> None:
    """The class map is the arg max, but for ties to rounding, and nodata exactly where nothing is valid."""
    valid = np.ones(made.shape, bool) if valid is None else valid
    np.testing.assert_array_equal(made == 255, ~valid)
    first, second = np.sort(probabilities, axis=0)[-1:-3:-1]
    clear = valid & (first - second > 1e-4)
    assert clear.mean() > 0.9 * valid.mean()
    np.testing.assert_array_equal(made[clear], probabilities.argmax(0)[clear])


def test_a_map_equals_a_loop_over_windows_and_brings_what_goes_with_it(
    workshop: Any, run_folder: Path, tmp_path: Path
) -> None:
    image = landscape(150, 203)
    image[:, 20:70, :90] = 0
    transform = (500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -10.0)
    write_geotiff(tmp_path / "scene.tif", image, transform, "EPSG:32632", 0, ("red", "green", "blue"))
    said = workshop.run(
        tmp_path,
        "task=map",
        "scene=scene.tif",
        f"checkpoint={run_folder}",
        "out=made/map.tif",
        "map.confidence=true",
        "map.probabilities=true",
    )
    valid = ~(image == 0).all(0)
    probabilities = expected(run_folder, image, valid)
    made = read(tmp_path / "made" / "map.tif")[0]
    agrees(made, probabilities, valid)
    every = read(tmp_path / "made" / "map_probabilities.tif")
    assert every.shape == (4, 150, 203) and (every[:, ~valid] == 65535).all()
    np.testing.assert_allclose(every[:, valid] * 1e-4, probabilities[:, valid], atol=2e-4)
    confidence = read(tmp_path / "made" / "map_confidence.tif")[0]
    np.testing.assert_array_equal(confidence, np.where(valid, every.max(0), 65535))
    rows = [line.split(",") for line in (tmp_path / "made" / "map_areas.csv").read_text().splitlines()[1:]]
    assert [int(row[2]) for row in rows] == [int((made == k).sum()) for k in range(4)]
    assert sum(float(row[4]) for row in rows) == pytest.approx(valid.sum() * 0.01, rel=2e-3)  # hectares
    names = {f.name for f in (tmp_path / "made").iterdir() if not f.name.startswith(".")}
    assert names == {
        "map.tif",
        "map.tif.aux.xml",
        "map_confidence.tif",
        "map_probabilities.tif",
        "map_areas.csv",
        "map.qml",
        "map_preview.png",
        "map_record.json",
    }
    assert "water" in said and " ha" in said
    info = import_gdal("map").Info(str(tmp_path / "made" / "map.tif"))
    assert "LAYOUT=COG" in info and "forest & wood" in info and "NoData Value=255" in info
    before = os.stat(tmp_path / "made" / "map.tif").st_mtime_ns
    command = ("task=map", "scene=scene.tif", f"checkpoint={run_folder}", "out=made/map.tif")
    assert "stands already" in workshop.run(tmp_path, *command)
    assert os.stat(tmp_path / "made" / "map.tif").st_mtime_ns == before
    (tmp_path / "made" / "map_confidence.tif").write_bytes(b"cut")
    assert "stands already" in workshop.run(tmp_path, *command)
    assert "stands already" not in workshop.run(tmp_path, *command, "map.confidence=true")
    workshop.run(tmp_path, *command, "map.stride=32")  # another map, without the layers of the one before
    assert not (tmp_path / "made" / "map_confidence.tif").exists()


def test_a_folder_of_odd_scenes(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    """Rotated, south-up, degrees, no georeference, less than a tile, 1 pixel wide, all nodata; one is refused."""
    gdal = import_gdal("scenes")
    scenes = tmp_path / "scenes"
    (scenes / "more").mkdir(parents=True)
    utm = "EPSG:32633"
    odd: dict[str, tuple[tuple[int, int], tuple[float, ...] | None, str | None]] = {
        "rotated": ((50, 70), (5e5, 8.0, 3.0, 5e6, 2.0, -8.0), utm),
        "south_up": ((50, 70), (5e5, 10.0, 0, 5e6, 0, 10.0), utm),
        "degrees": ((40, 60), (10.0, 1e-4, 0, 60.0, 0, -1e-4), "EPSG:4326"),
        "nowhere": ((40, 40), None, None),
        "more/small": ((9, 12), (5e5, 10.0, 0, 5e6, 0, -10.0), utm),
        "line": ((70, 1), (5e5, 10.0, 0, 5e6, 0, -10.0), utm),
        "nothing": ((40, 60), (5e5, 10.0, 0, 5e6, 0, -10.0), utm),
        "wrong": ((40, 60), (5e5, 10.0, 0, 5e6, 0, -10.0), utm),
    }
    images = {}
    for i, (name, ((h, w), transform, crs)) in enumerate(odd.items()):
        image = np.zeros((3, h, w), np.uint8) if name == "nothing" else landscape(h, w, i)
        images[name] = image
        kind, array = (gdal.GDT_UInt16, image.astype(np.uint16)) if name == "wrong" else (gdal.GDT_Byte, image)
        made = gdal.GetDriverByName("GTiff").Create(str(scenes / f"{name}.tif"), w, h, 3, kind)
        if crs:
            reference = import_gdal("crs", "osr").SpatialReference()
            reference.SetFromUserInput(crs)
            made.SetProjection(reference.ExportToWkt())
            made.SetGeoTransform(transform)
        for b in range(3):
            made.GetRasterBand(b + 1).SetNoDataValue(0)
        made.WriteRaster(0, 0, w, h, array.tobytes())
        made = None
    said = workshop.run(tmp_path, "task=map", "scene=scenes", f"checkpoint={run_folder}", "out=maps", exits=2)
    assert "1 of 8 scenes" in said and "wrong.tif holds uint16, the classifier was trained on uint8" in said
    for name, ((h, w), transform, crs) in odd.items():
        if name == "wrong":
            assert not (tmp_path / "maps" / "wrong.tif").exists()
            continue
        source, made = (gdal.Open(str(folder / f"{name}.tif")) for folder in (scenes, tmp_path / "maps"))
        assert made.GetGeoTransform(can_return_null=True) == source.GetGeoTransform(can_return_null=True)
        assert (transform is None) == (made.GetGeoTransform(can_return_null=True) is None)
        assert (crs is None) == (made.GetSpatialRef() is None)
        assert crs is None or made.GetSpatialRef().IsSame(source.GetSpatialRef())
        assert (made.RasterYSize, made.RasterXSize) == (h, w)
        found = read(tmp_path / "maps" / f"{name}.tif")[0]
        if name == "nothing":
            assert (found == 255).all()
        else:
            agrees(found, expected(run_folder, images[name]))


@pytest.fixture(scope="module")
def whole(workshop: Any, run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[str]]:
    """A scene of four blocks, its map made in one go, and the command."""
    folder = tmp_path_factory.mktemp("whole")
    transform = (5e5, 10.0, 0, 5e6, 0, -10.0)
    write_geotiff(folder / "scene.tif", landscape(120, 4000), transform, "EPSG:32632", 0, ("red", "green", "blue"))
    command = ["task=map", f"scene={folder / 'scene.tif'}", f"checkpoint={run_folder}", "map.confidence=true"]
    workshop.run(folder, *command, "out=map.tif")
    return folder, (folder / "map.tif").read_bytes() + (folder / "map_confidence.tif").read_bytes(), command


def both(folder: Path) -> bytes:
    return (folder / "map.tif").read_bytes() + (folder / "map_confidence.tif").read_bytes()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_make_the_same_file(
    workshop: Any, whole: tuple[Path, bytes, list[str]], tmp_path: Path, ranks: int
) -> None:
    workshop.run(tmp_path, *whole[2], "out=map.tif", ranks=ranks)
    assert both(tmp_path) == whole[1]


def test_killed_and_resumed_it_is_the_same_file(
    workshop: Any, whole: tuple[Path, bytes, list[str]], tmp_path: Path
) -> None:
    draws = random.Random(7)
    parts, kept = tmp_path / ".map.tif.parts", 0
    for n in (1, 3):
        pids = workshop.start(tmp_path, argv=(*whole[2], "out=map.tif"))
        end = time.monotonic() + 60
        while time.monotonic() < end and len(list(parts.glob("0*"))) < n:
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.2))
        os.kill(pids[0], signal.SIGKILL)
        workshop.wait()
        assert not (tmp_path / "map.tif").exists()
        assert len(list(parts.glob("0*"))) >= n > kept
        kept = n
    said = workshop.run(tmp_path, *whole[2], "out=map.tif")
    assert "parts are done" in said and both(tmp_path) == whole[1]
    assert not parts.exists()


def test_parts_of_another_classifier_are_not_taken(
    workshop: Any, whole: tuple[Path, bytes, list[str]], tmp_path: Path
) -> None:
    parts = tmp_path / ".map.tif.parts"
    parts.mkdir()
    write_sealed(parts / "inputs.json", {"key": "of something else"})
    (parts / "00000000").write_bytes(b"other numbers")
    workshop.run(tmp_path, *whole[2], "out=map.tif")
    assert both(tmp_path) == whole[1]
    parts.mkdir()  # killed while it was removing them: nothing says whose they were
    (parts / "00000000").write_bytes(b"other numbers")
    (tmp_path / "map.tif").unlink()
    workshop.run(tmp_path, *whole[2], "out=map.tif")
    assert both(tmp_path) == whole[1]


def test_the_short_cut_learns_once_for_all_ranks(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    for name, w in (("few", 400), ("many", 1600)):
        write_geotiff(tmp_path / f"{name}.tif", landscape(800, w), (5e5, 10.0, 0, 5e6, 0, -10.0), "EPSG:32632", 0, RGB)
    command = ("task=map", f"checkpoint={run_folder}", "map.stride=32", "map.confidence=true", "out=map.tif")
    few = (*command, f"scene={tmp_path / 'few.tif'}")  # fewer windows than it learns from: each is looked at
    workshop.run(tmp_path / "tiles", *few)
    workshop.run(tmp_path / "fast", *few, "map.fast=true")
    assert both(tmp_path / "fast") == both(tmp_path / "tiles")
    said = workshop.run(tmp_path / "hint", *few, "map.fast=true", "map.stride=5", exits=2)
    assert "stands for 32 pixels" in said and "type map.stride=32" in said
    many = (*command, f"scene={tmp_path / 'many.tif'}", "map.fast=true")
    workshop.run(tmp_path / "one", *many)
    workshop.run(tmp_path / "two", *many, ranks=2)
    assert both(tmp_path / "one") == both(tmp_path / "two")


def test_one_ranks_error_ends_all_and_the_next_scene_is_mapped(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    """A scene that another command is mapping is left out, by all ranks; a folder's maps may not be its scenes."""
    (tmp_path / "scenes").mkdir()
    (tmp_path / "maps").mkdir()
    for name in ("a", "b"):
        write_geotiff(tmp_path / "scenes" / f"{name}.tif", landscape(64, 64), None, None, 0, RGB)
    command = ("task=map", "scene=scenes", f"checkpoint={run_folder}")
    with FileLock(tmp_path / "maps" / ".a.tif.lock"):
        said = workshop.run(tmp_path, *command, "out=maps", ranks=2, exits=2)
    assert "another command is making maps/a.tif" in said and (tmp_path / "maps" / "b.tif").is_file()
    before = (tmp_path / "scenes" / "a.tif").read_bytes()
    assert "would overwrite the scene's own" in workshop.run(tmp_path, *command, "out=scenes", exits=2)
    workshop.run(tmp_path, "task=map", "scene=scenes/a.tif", f"checkpoint={run_folder}", "out=scenes", exits=2)
    assert (tmp_path / "scenes" / "a.tif").read_bytes() == before
    write_geotiff(tmp_path / "scenes" / "a.tiff", landscape(64, 64), None, None, 0, RGB)
    assert "would both become" in workshop.run(tmp_path, *command, "out=maps", exits=2)


def test_what_is_missing_or_wrong_is_said(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        "task=map needs out=": ("scene=s.tif", f"checkpoint={run_folder}"),
        "s.tif cannot be opened": ("scene=s.tif", f"checkpoint={run_folder}", "out=m.tif"),
        "holds no classifier": ("scene=s.tif", "checkpoint=empty", "out=m.tif"),
        "not the name of a GeoTIFF: type out=m.tif": ("scene=s.tif", f"checkpoint={run_folder}", "out=m.jpg"),
        "type values=cast": ("scene=s.tif", f"checkpoint={run_folder}", "out=m.tif", "values=moment"),
        "leaves gaps between windows": (
            "scene=s.tif",
            f"checkpoint={run_folder}",
            "out=m.tif",
            "map.window=16",
            "map.stride=20",
        ),
    }
    write_geotiff(tmp_path / "small.tif", landscape(64, 64), None, None, 0, RGB)
    cases["leaves gaps between windows of 32"] = (
        "scene=small.tif",
        f"checkpoint={run_folder}",
        "out=m.tif",
        "map.stride=48",
    )
    for message, arguments in cases.items():
        assert message in workshop.run(tmp_path, "task=map", *arguments, exits=2)


def test_real_scenes_by_their_bands(workshop: Any, run_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    """NAIP's four bands without names, and a Sentinel-2 scene whose outside is 255 and not declared."""
    common = ("task=map", f"checkpoint={run_folder}", "map.stride=32")
    naip = shared_data / "scenes" / "naip_4band_uint8_nodata0.tif"
    assert "type bands=[...]" in workshop.run(tmp_path, *common, f"scene={naip}", "out=naip.tif", exits=2)
    workshop.run(tmp_path, *common, f"scene={naip}", "out=naip.tif", "bands=[1,2,3]")
    outside = (read(naip)[:3] == 0).all(0)
    np.testing.assert_array_equal(read(tmp_path / "naip.tif")[0] == 255, outside)
    coast = shared_data / "scenes" / "sentinel2_coast_8band_uint8.tif"
    small = tmp_path / "small.vrt"
    import_gdal(coast).Translate(str(small), str(coast), format="VRT", srcWin=[0, 0, 700, 900])
    workshop.run(tmp_path, *common, f"scene={small}", "out=coast.tif", "bands=[B04,B03,B02]", "scene_nodata=255")
    outside = (read(small)[[3, 2, 1]] == 255).all(0)
    np.testing.assert_array_equal(read(tmp_path / "coast.tif")[0] == 255, outside)
    assert 0.05 < outside.mean() < 0.95
    with open(tmp_path / "coast_areas.csv") as file:
        assert sum(float(line.split(",")[4]) for line in file.readlines()[1:]) > 0


def test_a_folder_of_scenes_becomes_a_folder(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    write_geotiff(tmp_path / "scenes" / "a.tif", landscape(64, 64), None, None, 0, RGB)
    said = workshop.run(tmp_path, "task=map", "scene=scenes", f"checkpoint={run_folder}", "out=map.tif", exits=2)
    assert "type out=map_maps" in said
    said = workshop.run(
        tmp_path, "task=map", "scene=scenes", f"checkpoint={run_folder}", "out=maps", "bands=1,2,3", exits=2
    )
    assert "type 'bands=[1,2,3]'" in said


def test_a_scene_of_nothing_is_told_and_no_map_is_left(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    write_geotiff(tmp_path / "scene.tif", np.zeros((3, 40, 60), np.uint8), (5e5, 10, 0, 5e6, 0, -10), "EPSG:32632", 0)
    command = ["task=map", "scene=scene.tif", f"checkpoint={run_folder}", "bands=[1,2,3]", "out=map.tif"]
    said = workshop.run(tmp_path, *command, exits=2)
    assert "scene.tif has no pixel with a value in its bands [1, 2, 3]" in said and "scene_nodata=none" in said
    assert not list(tmp_path.glob("map*")) and not (tmp_path / ".map.tif.parts").exists()


@pytest.mark.parametrize("broken", [(np.nan,) * 6, (5e5, np.inf, 0, 5e6, 0, -10)])
def test_a_geotransform_that_places_nothing_gives_no_hectares(
    workshop: Any, run_folder: Path, tmp_path: Path, broken: tuple[float, ...]
) -> None:
    write_geotiff(tmp_path / "scene.tif", landscape(40, 60), broken, "EPSG:32632", None, RGB)
    said = workshop.run(tmp_path, "task=map", "scene=scene.tif", f"checkpoint={run_folder}", "out=map.tif")
    assert "places no pixel" in said and not re.search(r"\d ha\b", said.partition("map.tif\n")[2])
    assert {line.split(",")[4] for line in (tmp_path / "map_areas.csv").read_text().splitlines()[1:]} == {""}
    areas = json.loads((tmp_path / "map_record.json").read_text(), parse_constant=pytest.fail)["areas"]  # no NaN
    assert {area["hectares"] for area in areas.values()} == {None}


def test_windows_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    workshop: Any, run_folder: Path, tmp_path: Path
) -> None:
    write_geotiff(tmp_path / "scene.tif", landscape(40, 60), (5e5, 10, 0, 5e6, 0, -10), "EPSG:32632", None, RGB)
    command = ["task=map", "scene=scene.tif", f"checkpoint={run_folder}", "map.window=1000000", "out=map.tif"]
    said = workshop.run(tmp_path, *command, exits=2, memory=8 << 30)
    least = 3 * 1e12 * 14 / 1e9  # GB: of one window alone
    assert f"take about {least + 3 * 4e12 / 1e9:,.1f} GB" in said and "type a smaller batch_size=" in said


def test_a_preview_that_cannot_be_written_is_made_by_the_same_command_later(
    workshop: Any, run_folder: Path, tmp_path: Path
) -> None:
    write_geotiff(tmp_path / "scene.tif", landscape(40, 60), (5e5, 10, 0, 5e6, 0, -10), "EPSG:32632", None, RGB)
    (tmp_path / "map_preview.png").mkdir()
    command = ["task=map", "scene=scene.tif", f"checkpoint={run_folder}", "out=map.tif"]
    said = workshop.run(tmp_path, *command, exits=2)
    assert "map_preview.png: Is a directory" in said and "lie beside it" not in said
    (tmp_path / "map_preview.png").rmdir()
    assert "map_preview.png, map_areas.csv and map.qml lie beside it" in workshop.run(tmp_path, *command)
    assert (tmp_path / "map_preview.png").read_bytes().startswith(b"\x89PNG")
