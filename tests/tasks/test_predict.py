"""Predictions for images in files: the classifier's own, in order, with what cannot be read listed."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsssl.data.raster import write_geotiff
from rsssl.evaluation.classifier import CLASSIFIER, LinearHead, Trained, read_classifier
from rsssl.models import build_backbone
from rsssl.models.card import SensorCard

CLASSES = ("field", "town, old", "water")


RGB = ("red", "green", "blue")


def made_classifier(folder: Path, bands: tuple[str, ...] = RGB, dtype: str = "uint8", high: float = 255) -> Path:
    n = len(bands)
    card = SensorCard("tiles", bands, dtype, (0.0,) * n, (high,) * n, None, (0.4,) * n, (0.25,) * n, CLASSES, (32, 32))
    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone("resnet10t", n)
    head = LinearHead(torch.randn(3, 512, generator=generator), torch.zeros(3))
    folder.mkdir(exist_ok=True)
    Trained(head, card, 32, card.mean, card.std, backbone).save(folder / CLASSIFIER, None, {})
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
    said = workshop.run(tmp_path, "task=predict", "images=tiles", f"checkpoint={run_folder}", "out=made.csv", "batch_size=5")
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
    workshop.run(tmp_path, "task=predict", "images=t/list.csv", f"checkpoint={run_folder}", "out=made.csv", "bands=[4,1]")
    body = rows(tmp_path / "made.csv")[1:]
    assert [row[0] for row in body] == ["a.tif", "a.tif"] and body[0] == body[1]
    with torch.inference_mode():
        expected = read_classifier(run_folder / CLASSIFIER)(torch.from_numpy(array[[3, 0]].astype(np.int32))[None])[0]
    np.testing.assert_allclose([float(v) for v in body[0][3:]], expected.numpy(), atol=1e-4)
    assert [row[0] for row in rows(tmp_path / "made_unusable.csv")[1:]] == ["missing.tif"]
    (tmp_path / "t" / "list.txt").write_text("a.tif\n")
    workshop.run(tmp_path, "task=predict", "images=t/list.txt", f"checkpoint={run_folder}", "out=made.csv", "bands=[4,1]")
    assert rows(tmp_path / "made.csv")[1:] == body[:1]
    assert not (tmp_path / "made_unusable.csv").exists()  # of the run before


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
