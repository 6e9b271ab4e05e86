"""Predictions for images in files: the classifier's own, in order, with what cannot be read listed."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rsssl
from rsssl.data.pool import stored
from rsssl.data.prepared import load
from rsssl.data.raster import write_geotiff
from rsssl.engine.store import Store
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.metrics import confusion
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks.files import CLASSIFIER, read_classifier, write_classifier

CLASSES = ("field", "town, old", "water")


RGB = ("red", "green", "blue")


def made_classifier(folder: Path, bands: tuple[str, ...] = RGB, dtype: str = "uint8", high: float = 255) -> Path:
    n = len(bands)
    card = SensorCard("tiles", bands, dtype, (0.0,) * n, (high,) * n, None, (0.4,) * n, (0.25,) * n, CLASSES, (32, 32))
    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone("resnet10t", n)
    head = LinearHead(torch.randn(3, 512, generator=generator), torch.zeros(3))
    folder.mkdir(exist_ok=True)
    write_classifier(folder / CLASSIFIER, head, Preprocess(card, 32, card.mean, card.std), {}, backbone)
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_classifier(tmp_path_factory.mktemp("classifier"))


def rows(file: Path) -> list[list[str]]:
    with open(file, newline="") as opened:
        return list(csv.reader(opened))


def test_a_folder_of_images_with_bad_ones_among_them(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    tiles = tmp_path / "tiles"
    (tiles / "sub").mkdir(parents=True)
    images = {}
    for i in range(12):
        name = f"sub/{i:02d}.png" if i % 3 else f"{i:02d}.png"
        images[name] = draws.integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(images[name]).save(tiles / name)
    (tiles / "broken.png").write_bytes(b"")
    write_geotiff(tiles / "sub" / "other.tif", np.zeros((4, 32, 32), np.uint8))
    said = workshop.run(
        tmp_path, "task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv", "batch_size=5"
    )
    head, *body = rows(tmp_path / "made.csv")
    assert head == ["path", "class", "probability", *CLASSES]
    assert [row[0] for row in body] == sorted(images)
    x = torch.from_numpy(np.stack([images[row[0]] for row in body])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = read_classifier(run_folder / CLASSIFIER)(x).numpy()
    np.testing.assert_allclose(np.array([[float(v) for v in row[3:]] for row in body]), expected, atol=1e-4)
    assert [row[1] for row in body] == [CLASSES[k] for k in expected.argmax(1)]
    bad = rows(tmp_path / "made_unusable.csv")
    assert bad[0] == ["path", "reason"] and [row[0] for row in bad[1:]] == ["broken.png", "sub/other.tif"]
    assert "0 bytes" in bad[1][1] and "4 bands, expected 3" in bad[2][1]
    assert "2 could not be used" in said


def test_a_list_of_paths_and_chosen_bands(workshop: Any, tmp_path: Path) -> None:
    run_folder = made_classifier(tmp_path / "run", ("nir", "red"), "uint16", 4000)
    draws = np.random.default_rng(1)
    array = draws.integers(0, 4000, (4, 32, 32)).astype(np.uint16)
    (tmp_path / "t").mkdir()
    write_geotiff(tmp_path / "t" / "a.tif", array)
    (tmp_path / "t" / "list.csv").write_text("id,path\n1,a.tif\n2,missing.tif\n3,a.tif\n")
    workshop.run(
        tmp_path, "task=predict", "images=t/list.csv", f"checkpoint={run_folder}", "out=made.csv", "bands=[4,1]"
    )
    body = rows(tmp_path / "made.csv")[1:]
    assert [row[0] for row in body] == ["a.tif", "a.tif"] and body[0] == body[1]
    with torch.inference_mode():
        expected = read_classifier(run_folder / CLASSIFIER)(torch.from_numpy(array[[3, 0]].astype(np.int32))[None])[0]
    np.testing.assert_allclose([float(v) for v in body[0][3:]], expected.numpy(), atol=1e-4)
    assert [row[0] for row in rows(tmp_path / "made_unusable.csv")[1:]] == ["missing.tif"]
    (tmp_path / "t" / "list.txt").write_text("a.tif\n")
    workshop.run(
        tmp_path, "task=predict", "images=t/list.txt", f"checkpoint={run_folder}", "out=made.csv", "bands=[4,1]"
    )
    assert rows(tmp_path / "made.csv")[1:] == body[:1]
    assert not (tmp_path / "made_unusable.csv").exists()  # of the run before


def test_bands_are_found_by_name_as_in_a_map(workshop: Any, tmp_path: Path) -> None:
    """Other orders, more bands than needed, names typed; what has no names goes in order when the number agrees."""
    run_folder = made_classifier(tmp_path / "run", ("B04", "B03", "B02"), "uint16", 4000)
    draws = np.random.default_rng(3)
    pixels = draws.integers(0, 4000, (3, 32, 32)).astype(np.uint16)
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    write_geotiff(tiles / "a_same.tif", pixels, band_names=["B04", "B03", "B02"])
    write_geotiff(tiles / "b_turned.tif", pixels[::-1], band_names=["b02", "B03", "B04"])
    names = [f"B{i:02d}" for i in range(1, 14)]
    many = draws.integers(0, 4000, (13, 32, 32)).astype(np.uint16)
    many[[3, 2, 1]] = pixels
    write_geotiff(tiles / "c_many.tif", many, band_names=names)
    write_geotiff(tiles / "d_unnamed.tif", many)
    command = ("task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv")
    workshop.run(tmp_path, *command)
    body = rows(tmp_path / "made.csv")[1:]
    assert [row[0] for row in body] == ["a_same.tif", "b_turned.tif", "c_many.tif"]
    assert body[0][1:] == body[1][1:] == body[2][1:]
    ((bad, reason),) = rows(tmp_path / "made_unusable.csv")[1:]
    assert bad == "d_unnamed.tif" and "13 bands, expected 3" in reason and "type bands=[...]" in reason
    (tiles / "d_unnamed.tif").unlink()
    workshop.run(tmp_path, *command, "bands=[B04,b03,B02]")
    assert rows(tmp_path / "made.csv")[1:] == body
    write_geotiff(tiles / "d_unnamed.tif", pixels)
    workshop.run(tmp_path, *command)
    assert rows(tmp_path / "made.csv")[-1][1:] == body[0][1:]
    workshop.run(tmp_path, *command, "bands=[B04,B03,B02]")
    assert "not all of bands=['B04', 'B03', 'B02']" in rows(tmp_path / "made_unusable.csv")[1][1]


def test_no_image_can_be_used(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    write_geotiff(tmp_path / "tiles" / "a.tif", np.zeros((4, 32, 32), np.uint8))
    (tmp_path / "tiles" / "b.png").write_bytes(b"")
    command = ("task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv")
    for _ in range(2):
        text = workshop.run(tmp_path, *command, exits=2)
        assert (
            "none of the 2 images of tiles" in text
            and "a.tif: it has 4 bands, expected 3" in text
            and "Type images=" in text
        )
    assert "Traceback" not in text and len(rows(tmp_path / "made_unusable.csv")) == 3
    assert not (tmp_path / "made.csv").exists() and not (tmp_path / ".made.csv.parts").exists()
    text = workshop.run(tmp_path, *command, "bands=[0,1,2]", exits=2)
    assert "bands=[0, 1, 2]: the classifier was trained on 3 bands" in text


def test_names_that_are_not_utf_8_and_lists_of_spreadsheets(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    names = [os.fsencode("é.png"), b"b\xe9.png", b"bad\xe9.png"]
    for name in names[:2]:
        with open(os.path.join(os.fsencode(tiles), name), "wb") as file:
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, format="PNG")
    open(os.path.join(os.fsencode(tiles), names[2]), "wb").close()
    command = ("task=predict", f"checkpoint={run_folder}", "out=made.csv")
    for env in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        workshop.run(tmp_path, *command, "images=tiles", env=env)
        assert {line.split(b",")[0] for line in (tmp_path / "made.csv").read_bytes().splitlines()[1:]} == set(names[:2])
        assert names[2] in (tmp_path / "made_unusable.csv").read_bytes()
        (tmp_path / "made.csv").unlink()
    (tiles / "list.csv").write_bytes(b"\xef\xbb\xbfpath,id\r\n" + b"\r\n".join(n + b",1" for n in names))
    (tiles / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(names))
    for name in ("list.csv", "list.txt"):
        workshop.run(tmp_path, *command, f"images=tiles/{name}")
        lines = (tmp_path / "made.csv").read_bytes().splitlines()[1:]
        assert [line.split(b",")[0] for line in lines] == names[:2]


def test_what_is_finished_is_not_made_again(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for i in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(tiles / f"{i}.png")
    command = ("task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv")
    assert "4 images" in workshop.run(tmp_path, *command)
    first = (tmp_path / "made.csv").stat()
    for more in ({}, {"ranks": 2}):  # another batch size gives the same
        text = workshop.run(tmp_path, *command, "batch_size=3", **more)
        assert "stands already" in text and "4 images" not in text
        assert (tmp_path / "made.csv").stat().st_mtime_ns == first.st_mtime_ns
    with open(tmp_path / "made.csv", "a") as file:
        file.write("edited\n")
    assert "4 images" in workshop.run(tmp_path, *command, ranks=2)
    assert (tmp_path / "made.csv").stat().st_size == first.st_size
    assert "4 images" in workshop.run(tmp_path, *command, "tta=true")
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(tiles / "4.png")
    assert "5 images" in workshop.run(tmp_path, *command, "tta=true")


def test_an_error_on_one_rank_ends_the_others(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tiles / "0.png")
    (tiles / "needs.jp2").write_bytes(b"x")
    (tiles / "list.txt").write_text("0.png\nneeds.jp2\n")
    argv = ["rsssl-run", "task=predict", f"images={tiles / 'list.txt'}", f"checkpoint={run_folder}", "out=made.csv"]
    code = f"""
import rsssl.data.raster, rsssl.networks.predicting, rsssl.run
from rsssl.errors import UserError
def missing(*_):
    raise UserError("GDAL is not installed")
rsssl.data.raster.import_gdal, rsssl.networks.predicting.PART, sys.argv = missing, 1, {argv}
rsssl.run.main()
"""
    text = workshop.run(tmp_path, code=code, ranks=2, exits=2)
    assert "rsssl (rank 1): GDAL is not installed" in text and not (tmp_path / "made.csv").exists()


@pytest.mark.parametrize("evaluate", ["ridge", "knn"])
def test_the_accuracy_said_is_the_classifiers_own(workshop: Any, tmp_path: Path, evaluate: str) -> None:
    """With tta=true: the kept classifier's averaged probabilities, not another average."""
    draws = np.random.default_rng(4)
    for i, name in enumerate(CLASSES):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for j in range(40):
            ramp = (
                np.linspace(0, 40 * i, 32)[None, :, None] + draws.normal(100, 60, (32, 32, 3)) + draws.normal(0, 30, 3)
            )
            Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(tmp_path / "tiles" / name / f"{j}.png")
    workshop.run(
        tmp_path,
        "task=evaluate",
        "dataset=folder",
        f"dataset.root={tmp_path / 'tiles'}",
        "ssl=none",
        "ts=5",
        "backbone=resnet18",
        "backbone.name=resnet10t",
        "start=random",
        "pretrain.image_size=32",
        f"evaluate={evaluate}",
        "tta=true",
        "baselines=false",
        "hydra.run.dir=run",
    )
    data = load(rsssl.dataset("folder", tmp_path / "tiles"), Store(tmp_path / "store"), 1)
    classifier = read_classifier(tmp_path / "run" / CLASSIFIER)
    x = stored(data.pack, data.split.test, torch.device("cpu"))
    with torch.inference_mode():
        found = classifier.standardised(classifier.input(x), tta=True).argmax(1).numpy()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    matrix = confusion(data.pack.labels[data.split.test], found, len(CLASSES))
    assert results["confusion"] == matrix.tolist() and results["oa"] == pytest.approx(matrix.trace() / matrix.sum())
    assert results["oa"] < 1


def test_killed_or_on_two_ranks_it_is_the_same_file(workshop: Any, run_folder: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    draws = np.random.default_rng(2)
    Image.fromarray(draws.integers(0, 255, (32, 32, 3), np.uint8)).save(tiles / "0.png")
    Image.fromarray(draws.integers(0, 255, (32, 32, 3), np.uint8)).save(tiles / "1.png")
    (tiles / "list.txt").write_text("".join(f"{i % 2}.png\n" for i in range(3000)))
    command = ("task=predict", f"images={tiles / 'list.txt'}", f"checkpoint={run_folder}")
    for name in ("whole", "ranks", "killed"):
        (tmp_path / name).mkdir()
    workshop.run(tmp_path / "whole", *command, "out=made.csv")
    workshop.run(tmp_path / "ranks", *command, "out=made.csv", ranks=2)
    parts = tmp_path / "killed" / ".made.csv.parts"
    pids = workshop.start(tmp_path / "killed", argv=(*command, "out=made.csv"))
    end = time.monotonic() + 60
    while time.monotonic() < end and not list(parts.glob("0*")):
        time.sleep(0.005)
    os.kill(pids[0], signal.SIGKILL)
    workshop.wait()
    assert not (tmp_path / "killed" / "made.csv").exists()
    assert "parts are done" in workshop.run(tmp_path / "killed", *command, "out=made.csv")
    whole = (tmp_path / "whole" / "made.csv").read_bytes()
    assert whole.count(b"\n") == 3001
    assert (tmp_path / "ranks" / "made.csv").read_bytes() == whole == (tmp_path / "killed" / "made.csv").read_bytes()


def test_images_that_say_where_they_lie_are_told_with_their_place(
    workshop: Any, run_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("osgeo")
    tiles, place = tmp_path / "tiles", {}
    tiles.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    for i in range(4):  # on the middle meridian of a UTM zone, and on the equator
        transform = (500_000.0 - 16 * 10, 10.0, 0.0, 1_000.0 * i + 160.0, 0.0, -10.0)
        write_geotiff(tiles / f"{i}.tif", pixels, transform, "EPSG:32632")
        place[f"{i}.tif"] = 9.0, 1_000.0 * i / 110_574.0 / 0.9996
    write_geotiff(tiles / "lost.tif", pixels)
    workshop.run(tmp_path, "task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv")
    head, *body = rows(tmp_path / "made.csv")
    assert head == ["path", "class", "probability", *CLASSES, "lon", "lat"]
    for row in body:
        if row[0] == "lost.tif":
            assert row[-2:] == ["", ""]
        else:
            assert (float(row[-2]), float(row[-1])) == pytest.approx(place[row[0]], abs=1e-5)


def test_a_pipe_in_the_list_is_listed_as_unusable_and_not_waited_for(
    workshop: Any, run_folder: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    names = ["pipe.png", "pipe.tif", "/dev/zero"]  # the first is looked at for its place too
    for name in names[:2]:
        os.mkfifo(tmp_path / name)
    (tmp_path / "list.txt").write_text("\n".join([*names[1:], names[0], "a.png", "x" * 5000]))
    command = ["task=predict", "images=list.txt", f"checkpoint={run_folder}", "out=made.csv"]
    workshop.run(tmp_path, *command, seconds=60)
    assert [row[0] for row in rows(tmp_path / "made.csv")[1:]] == ["a.png"]
    unusable = dict(rows(tmp_path / "made_unusable.csv")[1:])
    assert all(unusable[name] == "not a file but a pipe, socket or device" for name in names)
    assert "name too long" in unusable["x" * 5000]


@pytest.mark.parametrize(
    ("task", "out", "expected"),
    [
        ("predict", "folder.csv", "folder.csv is a folder: type out="),
        ("predict", "file.txt/made.csv", "file.txt is a file and no folder"),
        ("predict", "x" * 300 + ".csv", "File name too long"),
        ("export", "file.txt/made", "file.txt is a file and no folder"),
        ("accuracy", "file.txt/made", "file.txt is a file and no folder"),
        ("suggest", "folder.csv", "folder.csv is a folder: type out="),
        ("map", "file.txt/map.tif", "file.txt is a file and no folder"),
    ],
)
def test_a_product_that_cannot_be_written_is_refused_before_the_work(
    task: str, out: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    needed = {"predict": ["checkpoint=none", "images=none"], "export": ["checkpoint=none"]}
    needed["accuracy"] = ["class_map=none", "reference=none"]
    with pytest.raises(rsssl.UserError, match=expected):
        rsssl.run([f"task={task}", f"out={out}", *needed.get(task, [])])
