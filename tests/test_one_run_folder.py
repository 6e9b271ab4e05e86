"""Two commands in one run folder, and several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.small import TRAIN


def test_a_second_process_on_a_run_folder_is_refused_and_a_dead_ones_lock_is_recovered(
    workshop, until, tiles: Path, tmp_path: Path
) -> None:
    command = [*TRAIN, f"dataset.root={tiles}", "hydra.run.dir=run"]
    (first,) = workshop.start(tmp_path, argv=[*command, "pretrain.epochs=10000"])
    until(lambda: list((tmp_path / "store").glob("pretrain/*/metrics.csv")))
    environment = os.environ | {"RSSSL_STORE": str(tmp_path / "store"), "PYTHONPATH": str(Path(__file__).parents[1])}
    second = subprocess.run(
        [sys.executable, "-m", "rsssl.run", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 2 and f"the run folder of process {first} on" in second.stderr, second.stderr
    assert "hydra.run.dir=DIR" in second.stderr and "Traceback" not in second.stderr
    os.kill(first, signal.SIGKILL)
    assert workshop.wait() == [-signal.SIGKILL]
    text = workshop.run(tmp_path, *command, "pretrain.epochs=1")
    assert "pre-trained on" in text and not (tmp_path / "run" / ".owner").exists()


def test_batches_that_do_not_divide_and_fewer_images_than_ranks_are_said(workshop, tiles: Path, tmp_path: Path) -> None:
    command = [*TRAIN, f"dataset.root={tiles}", "pretrain.epochs=1", "hydra.run.dir=run"]
    text = workshop.run(tmp_path, *command, "pretrain.batch_size=15", ranks=2, exits=2)
    assert "pretrain.batch_size: 15 images do not divide" in text or "type pretrain.batch_size=14" in text, text
    text = workshop.run(tmp_path, *command, "pretrain.images=3", ranks=4, exits=2)
    assert "3 images do not divide among 4 processes: type torchrun --nproc-per-node=3" in text


def test_a_pool_that_batches_do_not_fill_gives_every_rank_the_same_steps(workshop, tiles: Path, tmp_path: Path) -> None:
    command = [*TRAIN, f"dataset.root={tiles}", "pretrain.images=39", "pretrain.epochs=2", "hydra.run.dir=run"]
    text = workshop.run(tmp_path, *command, ranks=2)
    assert "4 steps of 16 images" in text and "2 processes" in text


def test_a_sweep_under_torchrun_says_what_to_type_and_other_ranks_write_nothing(
    workshop, tiles: Path, tmp_path: Path
) -> None:
    sweep = ["--multirun", "dataset=folder", f"dataset.root={tiles}", "ts=2,5"]
    text = workshop.run(tmp_path, *sweep, ranks=2, exits=2)
    assert f"rsssl-run --multirun processes=2 dataset=folder dataset.root={tiles} ts=2,5" in text
    command = [*TRAIN, f"dataset.root={tiles}", "pretrain.epochs=1"]
    workshop.run(tmp_path / "job", *command, ranks=2)
    assert len(list((tmp_path / "job" / "runs").glob("*/*"))) == 1, "one run folder for the job"
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == ["log.txt", "runs", "store"]
