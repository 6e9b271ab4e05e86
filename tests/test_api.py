"""What the command line does, from Python: folders, names and arrays, and errors that say what to type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rsssl
from rsssl.compose import unique
from rsssl.evaluation.heads import LinearHead
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks.files import CLASSIFIER, write_classifier
from rsssl.networks.load import load
from rsssl.networks.plan import canonical

SMALL = {"backbone.name": "resnet10t", "start": "random", "workers": 1, "device": "cpu", "tracker": "csv"}
SHORT = {"steps": 2, "batch_size": 8, "image_size": 16, "probes": 0, "pictures": 0}


@pytest.fixture(scope="module")
def place(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder to work in with a store of its own, and what a pre-training and an evaluation returned there."""
    root = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("RSSSL_STORE", str(root / "store"))
        trained = rsssl.pretrain(tiles, ssl="byol", pretrain=SHORT, **SMALL)
        results = rsssl.evaluate(tiles, checkpoint=trained["folder"], ts=3, evaluate="ridge", **SMALL)
        yield root, trained, results


def test_names_are_listed_without_torch() -> None:
    code = "import rsssl, sys; print(*dir(rsssl)); assert not {'torch', 'numpy', 'timm', 'hydra'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {
        "pretrain",
        "evaluate",
        "features",
        "predict",
        "map",
        "run",
        "load_backbone",
        "load_classifier",
        "UserError",
    }
    assert names <= set(done.stdout.split())


def test_a_training_and_an_evaluation_are_those_of_the_command(place: Any, tiles: Path) -> None:
    _, trained, results = place
    assert trained["steps"] == 2 and Path(trained["weights"]).is_file() and not trained["reused"]
    saved = json.loads((Path(results["run_folder"]) / "results.json").read_text())
    assert saved["oa"] == results["oa"] and saved["n_train"] == 9 and saved["ssl"].startswith("checkpoint ")
    again = rsssl.run(
        [
            "task=evaluate",
            f"checkpoint={trained['folder']}",
            "dataset=folder",
            f"dataset.root={tiles}",
            "ts=3",
            "evaluate=ridge",
            *(f"{k}={v}" for k, v in SMALL.items()),
        ]
    )
    assert again["confusion"] == results["confusion"] and again["run_folder"] != results["run_folder"]


def test_features_of_folders_paths_and_arrays_agree(place: Any, tiles: Path) -> None:
    _, trained, _ = place
    x, paths = rsssl.features(trained["folder"], tiles)
    assert x.shape == (72, 512) and len(paths) == 72 and x.dtype == np.float32
    pixels = np.stack([np.asarray(Image.open(p)).transpose(2, 0, 1) for p in paths[:5]])
    network = rsssl.load_backbone(trained["folder"])
    for some in (pixels, torch.from_numpy(pixels), paths[:5], pixels.astype(np.int64)):
        np.testing.assert_allclose(rsssl.features(network, some)[0], x[:5], rtol=1e-4, atol=1e-5)
    one = network(pixels[0])
    assert not one.requires_grad and one.shape == (1, 512)
    np.testing.assert_allclose(one.numpy()[0], x[0], rtol=1e-4, atol=1e-5)


def test_predictions_leave_a_record_and_no_run_folder(place: Any, tiles: Path, tmp_path: Path) -> None:
    root, _, results = place
    folders = set(root.glob("runs/*/*"))
    counts = rsssl.predict(results["run_folder"], tiles, tmp_path / "classes.csv", device="cpu")
    assert (counts["images"], counts["unusable"], counts["reused"]) == (72, 0, False)
    record = json.loads((tmp_path / "classes_record.json").read_text())
    assert record["counts"]["images"] == 72 and record["config"]["images"] == str(tiles)
    assert set(root.glob("runs/*/*")) == folders
    assert rsssl.predict(results["run_folder"], tiles, tmp_path / "classes.csv", device="cpu")["reused"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("run") / CLASSIFIER
    names = ("red", "green", "blue")
    card = SensorCard("t", names, "uint8", (0.0,) * 3, (255.0,) * 3, None, (0.4,) * 3, (0.2,) * 3, ("a", "b"), (16, 16))
    head = LinearHead(torch.randn(2, 512), torch.zeros(2))
    write_classifier(file, head, Preprocess(card, 16, card.mean, card.std), {}, build_backbone("resnet10t", 3))
    return rsssl.load_classifier(file)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.random.default_rng(0).random((2, 3, 16, 16)), r"floats of 0 to 1.*astype\('uint8'\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), "bands first"),
        (np.zeros((2, 2, 16, 16), np.uint8), r"shape \(2, 2, 16, 16\)"),
        (np.full((1, 3, 16, 16), 4000, np.uint16), "band red lie outside its valid range, 0 to 255"),
        ("tiles/", "no pixels"),
        ([[1, 2], [3]], "no pixels"),
    ],
)
def test_arrays_that_cannot_be_pixels_are_refused(classifier: Any, pixels: Any, expected: str) -> None:
    with pytest.raises(rsssl.UserError, match=expected):
        classifier(pixels)


def test_wrong_keys_are_refused_as_on_the_command_line(tiles: Path) -> None:
    with pytest.raises(rsssl.UserError, match=r"belongs to task=map"):
        rsssl.pretrain(tiles, scene="scene.tif")
    with pytest.raises(rsssl.UserError, match=r"Type pretrain\.epochs="):
        rsssl.pretrain(tiles, pretrain={"epoch": 3})


def test_a_sweeps_folder_names_its_runs(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "sweep" / str(number)).mkdir(parents=True)
        (tmp_path / "sweep" / str(number) / "results.json").write_text("{}")
    with pytest.raises(rsssl.UserError, match=r"a sweep with 3 runs .*checkpoint=.*sweep/0"):
        load(tmp_path / "sweep")
    with pytest.raises(rsssl.UserError, match="a sweep with 3 runs"):
        rsssl.load_classifier(tmp_path / "sweep")


def test_run_folders_of_one_second_are_two(tmp_path: Path) -> None:
    unique.cache_clear()
    first = unique(str(tmp_path / "10-00-00-pack-aid"))
    unique.cache_clear()  # another process
    assert unique(str(tmp_path / "10-00-00-pack-aid")) == first + "-2"


def test_a_class_may_move_to_another_file() -> None:
    node = {"ssl": {"_target_": "rsssl.methods.simclr.SimCLR", "views": 2}, "own": [{"_target_": "my.method.Mine"}]}
    assert canonical(node)["ssl"]["_target_"] == "rsssl.methods.SimCLR"
    assert canonical(node)["own"] == node["own"]
