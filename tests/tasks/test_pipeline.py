"""The main job from end to end, as a user types it, on small imagery made here."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rsssl.data.raster import write_geotiff

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [
    "backbone=resnet18",
    "backbone.name=resnet10t",
    "start=random",
    "pretrain.epochs=2",
    "pretrain.batch_size=32",
    "pretrain.image_size=32",
    "pretrain.probes=2",
    "ssl.views=2",
    "tracker=csv",
]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 30 tiles, 4 bands, uint16: stripes one way, blobs, noise; all of the same mean colour."""
    root = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40]
    for name in ("stripes", "blobs", "noise"):
        (root / name).mkdir()
        for i in range(30):
            phase = rng.uniform(0, 6.3, 2)
            texture = {
                "stripes": np.sin(x + phase[0]),
                "blobs": np.sin(x / 4 + phase[0]) * np.sin(y / 4 + phase[1]),
                "noise": rng.normal(size=(40, 40)),
            }[name]
            gains = rng.uniform(300, 600, (4, 1, 1))
            write_geotiff(root / name / f"{i}.tif", np.clip(2000 + gains * texture, 1, 9000).astype(np.uint16))
    return root


@pytest.fixture
def rsssl_run(workshop) -> Callable[..., str]:
    """rsssl_run(store, cwd, *arguments): the command's output."""

    def run(store: Path, cwd: Path, *arguments: str, code: int = 0) -> str:
        return workshop.run(cwd, *arguments, exits=code, env={"RSSSL_STORE": str(store)})

    return run


def results(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.rglob("results.json"))]


def test_a_sweep_pre_trains_once_and_leaves_a_table(rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [
        "--multirun",
        "dataset=folder",
        f"dataset.root={tiles}",
        *TINY,
        "ts=2,5",
        "seed=0,1",
    ]
    text = rsssl_run(store, tmp_path, *command)
    (sweep,) = (tmp_path / "multirun").glob("*/*")  # where a sweep goes when nothing says otherwise
    sweep.rename(tmp_path / "sweep")
    assert len(list((store / "pretrain").glob("*/done.json"))) == 1
    found = results(tmp_path / "sweep")
    assert [(r["ts"], r["seed"]) for r in found] == [(2, 0), (2, 1), (5, 0), (5, 1)]
    assert [r["pretrain"]["reused"] for r in found] == [False, True, True, True]
    assert text.count("reused") >= 3
    for r in found:
        matrix = np.array(r["confusion"])
        assert matrix.shape == (3, 3) and matrix.sum() == r["n_test"] == 18
        assert r["n_train"] == 3 * r["ts"] and r["n_classes"] == 3
        assert r["oa"] == pytest.approx(np.trace(matrix) / matrix.sum())
        assert r["aa"] == pytest.approx(np.mean(np.diag(matrix) / matrix.sum(1)))
        assert set(r["baselines"]) == {"random_init", "image_statistics"}
        assert "predictions" not in r["baselines"]["random_init"]
    assert len({r["split_hash"] for r in found}) == 1
    assert len({r["config_hash"] for r in found}) == 4
    run = tmp_path / "sweep" / "0"
    listed = list(csv.DictReader((run / "predictions.csv").open()))
    classes = list(found[0]["per_class"])
    matrix = np.zeros((3, 3), int)
    for line in listed:
        assert line["true"] == line["image"].split("/")[0] and 1 / 3 <= float(line["confidence"]) <= 1
        matrix[classes.index(line["true"]), classes.index(line["predicted"])] += 1
    assert matrix.tolist() == found[0]["confusion"] and len(listed) == found[0]["predictions"]["listed"]
    assert found[0]["data"]["root"] == str(tiles)
    checksums = np.fromfile(Path(found[0]["data"]["features"]) / "000000.bin", np.uint32)[:90]
    assert (checksums != 0).sum() >= 18, "the features of the test images are there"
    assert yaml.safe_load((run / "config.yaml").read_text())["dataset"]["root"] == str(tiles)
    names = {line.split(",")[2] for line in (run / "metrics.csv").read_text().splitlines()[1:]}
    assert {"loss", "probe_oa", "embedding_std", "effective_rank", "images_per_second", "data_share"} <= names

    again = rsssl_run(
        store, tmp_path, "dataset=folder", f"dataset.root={tiles}", *TINY, "ts=2", "seed=1", "hydra.run.dir=again"
    )
    assert "reused" in again
    assert results(tmp_path / "again")[0]["confusion"] == found[1]["confusion"]

    taken = rsssl_run(
        store,
        tmp_path,
        "task=evaluate",
        "dataset=folder",
        f"dataset.root={tiles}",
        "checkpoint=again",
        "evaluate=knn",
        "ts=5",
        "hydra.run.dir=knn",
        "tta=true",
    )
    assert "knn" in taken and results(tmp_path / "knn")[0]["evaluate"] == "knn"

    report = subprocess.run(
        [sys.executable, "-m", "rsssl.report.command", "sweep", "--html"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    mean = 100 * np.mean([r["oa"] for r in found if r["ts"] == 5])
    assert f"{mean:.1f}" in report.stdout
    assert (tmp_path / "sweep" / "label_efficiency.png").stat().st_size > 5000
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "t-SNE" in page and "Online probe" in page and "The store no longer" not in page
    assert f"rsssl-run --multirun dataset=folder dataset.root={tiles}" in page and "ts=2,5 seed=0,1" in page


@pytest.mark.parametrize(
    ("evaluate", "protocol"),
    [(e, "clean") for e in ("ridge", "propagate", "finetune", "scratch")]
    + [("finetune", "paper"), ("scratch", "paper")],
)
def test_every_evaluation_gives_results(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path_factory: pytest.TempPathFactory, evaluate: str, protocol: str
) -> None:
    shared = tmp_path_factory.getbasetemp() / "shared-store"
    folder = tmp_path_factory.mktemp("run")
    rsssl_run(
        shared,
        folder,
        "dataset=folder",
        f"dataset.root={tiles}",
        *TINY,
        f"evaluate={evaluate}",
        f"protocol={protocol}",
        "ts=5",
        "finetune.epochs=2",
        f"finetune.steps={4 if protocol == 'clean' else 'null'}",
        "hydra.run.dir=run",
    )
    (found,) = results(folder)
    assert 0 <= found["oa"] <= 1 and found["protocol"] == protocol
    assert (found["pretrain"] is None) == (evaluate == "scratch")
    probes = {values.get("evaluate") for values in found["baselines"].values()}
    assert probes == {None if evaluate == "ridge" else "linear"}, "what judges the baselines, where it is another"
    if protocol == "paper":
        assert found["details"]["epoch_chosen_on_test_images"]


def test_a_protocol_that_chooses_an_epoch_refuses_what_has_none(workshop, tmp_path: Path) -> None:
    error = workshop.run(tmp_path, "dataset=synthetic", "protocol=paper", "ssl=none", exits=2)
    assert "evaluate=auto does not have: type evaluate=linear" in error


def test_a_killed_pre_training_goes_on_to_the_same_weights(
    rsssl_run: Callable[..., str], started, until, tiles: Path, tmp_path: Path
) -> None:
    command = [
        "task=pretrain",
        "dataset=folder",
        f"dataset.root={tiles}",
        *TINY,
        "pretrain.epochs=10",
        "pretrain.checkpoint_minutes=0",
        "pretrain.probes=0",
        "+backbone.kwargs.channels=[8,16,32,64]",
    ]
    rsssl_run(tmp_path / "whole", tmp_path, *command)
    process = started("-m", "rsssl.run", *command, RSSSL_STORE=str(tmp_path / "killed"))
    until(lambda: list((tmp_path / "killed").glob("pretrain/*/checkpoint-*.json")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "killed").glob("pretrain/*/done.json")), "it was killed too late"
    text = rsssl_run(tmp_path / "killed", tmp_path, *command)
    assert "resumed at step" in text
    whole, resumed = (
        load_file(next((tmp_path / s).glob("pretrain/*/backbone.safetensors"))) for s in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_dataset_without_a_root_says_where_to_put_the_data(rsssl_run: Callable[..., str], tmp_path: Path) -> None:
    text = rsssl_run(tmp_path / "store", tmp_path, "dataset=aid", "ssl=simclr", code=2)
    assert "data/AID" in text and "dataset.root=" in text and "Traceback" not in text


def test_pre_training_on_two_datasets_of_different_sizes(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    rng = np.random.default_rng(1)
    for i in range(40):
        path = other / "all" / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(path, rng.integers(1, 9000, (4, 56, 56)).astype(np.uint16))
    text = rsssl_run(
        tmp_path / "store",
        tmp_path,
        "dataset=folder",
        f"dataset.root={tiles}",
        *TINY,
        "ts=2",
        "hydra.run.dir=run",
        "dataset.test_fraction=0.5",
        "pretrain.dataset=[folder,folder]",
        f"pretrain.root=[{tiles},{other}]",
    )
    assert "vicreg" in text
    # half of the evaluated folder is its test set and is never trained on, though the folder is named a second time
    assert results(tmp_path / "run")[0]["pretrain"]["images"] == 45 + 40


def test_too_few_labels_names_the_class_before_any_training(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path
) -> None:
    text = rsssl_run(tmp_path / "store", tmp_path, "dataset=folder", f"dataset.root={tiles}", *TINY, "ts=25", code=2)
    assert "24" in text and any(c in text for c in ("stripes", "blobs", "noise"))
    assert not (tmp_path / "store").exists(), "before the images are packed"


def test_the_validation_protocol_keeps_the_test_set_closed(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for protocol in ("clean", "validation"):
        rsssl_run(
            store,
            tmp_path,
            "dataset=folder",
            f"dataset.root={tiles}",
            "ssl=none",
            "tracker=csv",
            "ts=2",
            "evaluate=ridge",
            "backbone.name=resnet10t",
            "start=random",
            f"protocol={protocol}",
            f"hydra.run.dir={protocol}",
        )
    (clean,), (validation,) = results(tmp_path / "clean"), results(tmp_path / "validation")
    assert clean["n_test"] == 3 * 6 and validation["n_test"] == 3 * 5  # a fifth of 30, and a fifth of the other 24
    assert clean["split_hash"] != validation["split_hash"]
    splits = [set(json.loads(p.read_text())["test"]) for p in store.glob("pack/*/split-*.json")]
    assert len(splits) == 2 and not splits[0] & splits[1]


METHOD = """
from torch import nn
from rsssl.methods.base import Method

class Mine(Method):
    def __init__(self, backbone, weight: float = 1.0):
        super().__init__(backbone, views=2)
        self.head, self.weight = nn.Linear(self.num_features, 8), weight

    def forward(self, batch):
        a, b = (self.head(self.backbone(v)) for v in batch.views)
        return {"loss": self.weight * (a - b).square().mean() - a.std(0).mean(), "embedding": a}
"""


def test_a_method_of_the_users_own_is_one_yaml_and_one_file_and_an_edit_is_another_method(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    (mine / "ssl").mkdir(parents=True)
    (mine / "ssl" / "mine.yaml").write_text("_target_: my_method.Mine\nweight: 2.0\n")
    command = [
        "--config-dir",
        str(mine),
        "task=pretrain",
        "dataset=folder",
        f"dataset.root={tiles}",
        *(t for t in TINY if t != "ssl.views=2"),
        "ssl=mine",
    ]
    store = tmp_path / "store"
    for code, artefacts in ((METHOD, 1), (METHOD, 1), (METHOD.replace("8)", "9)"), 2)):
        (mine / "my_method.py").write_text(code)
        rsssl_run(store, tmp_path, *command)
        assert len(list((store / "pretrain").glob("*/done.json"))) == artefacts


def test_a_file_in_the_working_folder_does_not_take_a_packages_place(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise SystemExit('the wrong hydra')")
    script = (
        "import sys; sys.path.remove(''); sys.argv = ['rsssl-run', '--cfg', 'job']; import rsssl.run; rsssl.run.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "pretrain:" in done.stdout, done.stderr


def test_a_sweep_over_methods_as_the_readme_types_it(
    rsssl_run: Callable[..., str], tiles: Path, tmp_path: Path
) -> None:
    """Four kinds of signal on 4-band imagery in one command: each pre-trains once, and leaves its pictures."""
    rsssl_run(
        tmp_path / "store",
        tmp_path,
        "--multirun",
        "ssl=simclr,byol,jigsaw2x2,inpainting",
        "ts=5,20",
        "dataset=folder",
        f"dataset.root={tiles}",
        *TINY,
        "pretrain.pictures=1",
        "hydra.sweep.dir=sweep",
    )
    found = results(tmp_path / "sweep")
    assert sorted((r["ssl"], r["ts"]) for r in found) == [
        (name, ts) for name in ("byol", "inpainting", "jigsaw2x2", "simclr") for ts in (5, 20)
    ]
    assert len(list((tmp_path / "store" / "pretrain").glob("*/done.json"))) == 4
    for number in range(8):
        (picture,) = (tmp_path / "sweep" / str(number) / "pictures").glob("step-*.png")
        assert picture.stat().st_size > 1000


def test_tiles_of_one_place_are_each_others_positives(rsssl_run: Callable[..., str], tmp_path: Path) -> None:
    """ssl=seasonal on class/place/date.tif trains; where the folders are the classes, pairing by folder is refused."""
    rng = np.random.default_rng(0)
    for kind, place, date in np.ndindex(2, 12, 3):
        folder = tmp_path / "tiles" / f"kind{kind}" / f"place{place}"
        folder.mkdir(parents=True, exist_ok=True)
        write_geotiff(folder / f"{date}.tif", rng.integers(1, 5000, (3, 24, 24)).astype(np.uint16))
    command = ["dataset=folder", f"dataset.root={tmp_path / 'tiles'}", *TINY, "ssl=seasonal", "ts=2"]
    rsssl_run(tmp_path / "store", tmp_path, *command, "hydra.run.dir=run")
    assert results(tmp_path / "run")[0]["ssl"] == "seasonal"
    for kind in range(2):
        for number, file in enumerate(sorted((tmp_path / "tiles" / f"kind{kind}").glob("*/*.tif"))):
            target = tmp_path / "flat" / f"kind{kind}" / f"{number}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    flat = ["dataset=folder", f"dataset.root={tmp_path / 'flat'}", *TINY, "ssl=seasonal", "ts=2"]
    said = rsssl_run(tmp_path / "store", tmp_path, *flat, code=2)
    assert "paired by label" in said and "ssl.together=name" in said
