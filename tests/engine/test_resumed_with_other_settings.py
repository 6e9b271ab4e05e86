"""Going on from a checkpoint with another configuration: what is allowed, what is refused with the difference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.tracking import read_metrics
from rsssl.optim import Cosine
from tests.small import TRAIN

RUN = [*TRAIN, "pretrain.average=0", "pretrain.keep=true", "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def trained(workshop, tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished training of 6 steps, in a folder of its own, and its command."""
    folder = tmp_path_factory.mktemp("trained")
    command = [*RUN, f"dataset.root={tiles}"]
    workshop.run(folder, *command, "pretrain.epochs=2")
    return folder, command


def artefact(folder: Path, steps: int) -> Path:
    (training,) = [
        f.parent for f in folder.glob("store/pretrain/*/training.json") if json.loads(f.read_text())["steps"] == steps
    ]
    return training


def test_more_epochs_plan_the_schedule_anew_and_take_the_images_in_their_order(workshop, trained) -> None:
    folder, command = trained
    first = artefact(folder, 6)
    more = [*command, "pretrain.epochs=4", f"pretrain.resume={first.name}"]
    text = workshop.run(folder, *more)
    assert "goes on from" in text and "pretrain.epochs: was 2, now 4" in text and "resumed at step 6 of 12" in text
    second = artefact(folder, 12)
    rows = read_metrics(second / "metrics.csv")
    assert [int(r["step"]) for r in rows if r["name"] == "loss"] == [7, 8, 9, 10, 11, 12]
    factors = [float(r["value"]) for r in rows if r["name"] == "lr_factor"]
    inputs = json.loads((second / "inputs.json").read_text())["inputs"]
    schedule = Cosine(**{k: v for k, v in inputs["schedule"].items() if k != "_target_"})
    assert factors == pytest.approx([schedule(s, 12) for s in range(6, 12)], rel=1e-4)
    assert inputs["resumed"]["step"] == 6 and "reused on" in workshop.run(folder, *more)
    first.rename(folder / "away")  # what it began with is not needed any more
    assert "reused on" in workshop.run(folder, *more)
    (folder / "away").rename(first)
    a, b = (load_file(f / "backbone.safetensors") for f in (first, second))
    assert any(not torch.equal(a[k], b[k]) for k in a)


def test_a_finished_training_keeps_its_checkpoint_only_where_that_was_asked(workshop, trained) -> None:
    folder, command = trained
    without = [*(a for a in command if a != "pretrain.keep=true"), "pretrain.epochs=1"]
    workshop.run(folder, *without)
    plain = artefact(folder, 3)
    assert not list(plain.glob("checkpoint-*")) and (plain / "backbone.safetensors").is_file()
    weights = (plain / "backbone.safetensors").read_bytes()
    more = [*command, "pretrain.epochs=5", f"pretrain.resume={plain}"]
    text = workshop.run(folder, *more, exits=2)
    assert f"task=store remove=pretrain/{plain.name}" in text and "pretrain.keep=true" in text
    # what the message says to type
    text = workshop.run(folder, *without, "pretrain.keep=true")
    assert "reused" in text and "cannot be gone on from" in text and not list(plain.glob("checkpoint-*"))
    workshop.run(folder, "task=store", f"remove=pretrain/{plain.name}", "hydra.run.dir=run")
    workshop.run(folder, *without, "pretrain.keep=true")
    assert len(list(plain.glob("checkpoint-*.pt"))) == 1 and (plain / "backbone.safetensors").read_bytes() == weights
    assert "reused" in workshop.run(folder, *without)  # it was asked for once
    assert "resumed at step 3 of 15" in workshop.run(folder, *more)


def test_fewer_epochs_than_are_done_is_an_error(workshop, trained) -> None:
    folder, command = trained
    text = workshop.run(folder, *command, "pretrain.epochs=1", f"pretrain.resume={artefact(folder, 6)}", exits=2)
    assert "was written after step 6, and this training has 3: type a larger pretrain.epochs" in text


def test_a_lower_learning_rate_is_allowed_and_takes_effect(workshop, trained) -> None:
    folder, command = trained
    entry = Checkpoints(artefact(folder, 6)).entries()[0]
    arguments = [
        *command,
        "pretrain.epochs=3",
        "pretrain.lr=1e-9",
        "schedule=constant",
        f"pretrain.resume={entry.file}",
    ]
    text = workshop.run(folder, *arguments)
    assert "pretrain.lr: was" in text and "schedule._target_: was" in text
    a, b = (load_file(artefact(folder, s) / "backbone.safetensors") for s in (6, 9))
    weights = [k for k in a if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in weights), "the old learning rate was used"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("backbone.name=resnet14t", "backbone.name: was resnet10t, now resnet14t"),
        ("ssl.variance=20", "ssl.variance: was"),
        ("pretrain.batch_size=8", "pretrain.batch_size: was 16, now 8"),
        ("pretrain.images=50", "pretrain.images: was None, now 50"),
        ("dataset.split_seed=3", "data: was [{'name'"),
        ("optimizer=sgd", "optimizer._target_: was rsssl.optim.AdamW, now rsssl.optim.SGD"),
    ],
)
def test_what_makes_it_another_training_is_refused_with_the_difference(
    change: str, difference: str, workshop, trained
) -> None:
    folder, command = trained
    arguments = [a for a in command if a.split("=")[0] != change.split("=")[0]]
    text = workshop.run(folder, *arguments, change, f"pretrain.resume={artefact(folder, 6)}", exits=2)
    assert "was trained otherwise" in text and difference in text and "leave pretrain.resume out" in text
    assert "Traceback" not in text


def test_what_cannot_change_the_result_may_be_changed_in_the_middle(
    workshop, until, tiles: Path, tmp_path: Path
) -> None:
    command = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=30", "pretrain.checkpoint_minutes=0"]
    (pid,) = workshop.start(tmp_path, argv=command)
    until(lambda: list(tmp_path.glob("store/pretrain/*/checkpoint-*.json")))
    os.kill(pid, 9)
    workshop.wait()
    text = workshop.run(
        tmp_path, *command, "pretrain.log_every=5", "timeout=100", "workers=1", "pretrain.checkpoint_minutes=9"
    )
    assert "resumed at step" in text and len(list(tmp_path.glob("store/pretrain/[!.]*"))) == 1
