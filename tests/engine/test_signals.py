"""Asked to stop, ranks agree on the step, leave one checkpoint, and other numbers of ranks go on from it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rsssl.data.loader import PoolBatches, Sampling
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.tracking import read_metrics
from tests.small import TRAIN

RUN = [*TRAIN, "hydra.run.dir=run"]


def losses(folder: Path) -> list[float]:
    rows = [r for r in read_metrics(folder / "metrics.csv") if r["name"] == "loss"]
    assert [int(r["step"]) for r in rows] == list(range(1, len(rows) + 1)), "steps are missing or stand twice"
    return [float(r["value"]) for r in rows]


def test_sigterm_to_torchrun_is_one_checkpoint_that_one_process_and_then_two_go_on_from(
    workshop, torchrun, until, tiles: Path, tmp_path: Path
) -> None:
    """What ranks wrote, one process reads, and the reverse: 2 ranks, then 1, then 2."""
    command = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=30"]  # 3 steps each
    workshop.run(tmp_path / "whole", *command)
    process = torchrun(*command, options=["--standalone", "--nproc-per-node=2"], cwd=tmp_path / "cut")

    def steps() -> int:
        return sum(len(losses(f.parent)) for f in (tmp_path / "cut").glob("store/pretrain/*/metrics.csv"))

    until(lambda: steps() >= 5)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    text, _ = process.communicate(timeout=120)
    assert time.monotonic() - begin < 20
    assert (
        process.returncode != 0 and "stopped by SIGTERM after step" in text and "Type the same command again" in text
    ), text
    (folder,) = (tmp_path / "cut").glob("store/pretrain/[!.]*")
    (entry,) = Checkpoints(folder).entries()
    assert entry.step == len(losses(folder)) < 90 and entry.whole()
    (one,) = workshop.start(tmp_path / "cut", argv=command)  # now a single process, for a while
    until(lambda: steps() >= entry.step + 5)
    begin = time.monotonic()
    os.kill(one, signal.SIGUSR1)
    assert workshop.wait() == [128 + signal.SIGUSR1] and time.monotonic() - begin < 20
    assert "now on 1 processes, before on 2" in workshop.log.read_text()
    text = workshop.run(tmp_path / "cut", *command, ranks=2)
    assert "now on 2 processes, before on 1" in text
    (whole,) = (tmp_path / "whole").glob("store/pretrain/[!.]*")
    # The same training: rounding differs, and Adam makes much of it in time.
    assert len(losses(folder)) == 90 and np.allclose(losses(folder)[:5], losses(whole)[:5], rtol=2e-3)
    assert np.allclose(losses(folder), losses(whole), rtol=0.2)
    a, b = (load_file(f / "backbone.safetensors") for f in (whole, folder))
    assert a.keys() == b.keys() and not any(k.startswith("module.") for k in b)


def test_sigusr1_to_a_job_that_started_torchrun_itself_and_its_exit_code(
    started, until, tiles: Path, tmp_path: Path
) -> None:
    command = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=2000", "processes=2"]
    process = started("-m", "rsssl.run", *command)
    until(lambda: any(len(losses(f.parent)) >= 3 for f in tmp_path.glob("store/pretrain/*/metrics.csv")))
    process.send_signal(signal.SIGUSR1)
    begin = time.monotonic()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1 and time.monotonic() - begin < 20, text
    assert "stopped by SIGTERM after step" in text, "torchrun's processes are sent the one signal it hands on"
    (folder,) = tmp_path.glob("store/pretrain/[!.]*")
    (entry,) = Checkpoints(folder).entries()
    assert entry.step == len(losses(folder))


def test_when_torchrun_itself_is_killed_its_processes_stop_with_a_checkpoint(
    torchrun, until, tiles: Path, tmp_path: Path
) -> None:
    process = torchrun(
        *RUN, f"dataset.root={tiles}", "pretrain.epochs=2000", options=["--standalone", "--nproc-per-node=2"]
    )
    until(lambda: any(len(losses(f.parent)) >= 3 for f in tmp_path.glob("store/pretrain/*/metrics.csv")))
    process.kill()
    text, _ = process.communicate(timeout=60)  # until the last of them has closed its output
    assert "torchrun has ended; stopping" in text and "stopped by SIGTERM after step" in text
    (folder,) = tmp_path.glob("store/pretrain/[!.]*")
    (entry,) = Checkpoints(folder).entries()
    assert entry.step == len(losses(folder))


STOPS = {
    "at the first step": 1,
    "in the middle of a pass": 5,
    "at the end of a pass": 8,
    "after the last step": 18,
}  # 9 a pass


@pytest.mark.parametrize("when", STOPS)
def test_stopped_at_any_boundary_it_ends_the_same(when: str, workshop, pack_of_tiles: Path, tmp_path: Path) -> None:
    step, warm = STOPS[when], ["simclr", str(pack_of_tiles)]
    train = f"train('simclr', {str(pack_of_tiles)!r}, {{folder!r}}, 18, log_every=4{{options}})"
    workshop.run(tmp_path, warm=warm, code=train.format(folder="whole", options=""))
    asked = f"[(18, lambda step: os.kill(os.getpid(), 15) or {{}} if step == {step} else {{}})]"
    code, last = train.format(folder="cut", options=f", meanwhile={asked}"), step == 18
    text = workshop.run(
        tmp_path, warm=warm, code=code, exits=-signal.SIGTERM if last else 1
    )  # too late: it is sent again
    if not last:
        assert f"stopped by SIGTERM after step {step} of 18" in text
    workshop.run(tmp_path, warm=warm, code=train.format(folder="cut", options=""))
    a, b = (torch.load(tmp_path / f / "final.pt", weights_only=True) for f in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_finished_training_and_an_interrupted_evaluation(workshop, until, tiles: Path, tmp_path: Path) -> None:
    command = [
        "dataset=folder",
        f"dataset.root={tiles}",
        "backbone.name=resnet10t",
        "start=random",
        "ssl=none",
        "ts=5",
        "hydra.run.dir=run",
    ]
    workshop.run(tmp_path / "whole", *command)
    (pid,) = workshop.start(tmp_path / "cut", argv=command)
    until(lambda: list((tmp_path / "cut").glob("store/features/*/*.bin")))
    os.kill(pid, signal.SIGKILL)
    workshop.wait()
    workshop.run(tmp_path / "cut", *command)
    whole, cut = [json.loads((tmp_path / f / "run" / "results.json").read_text()) for f in ("whole", "cut")]
    assert all(whole[k] == cut[k] for k in ("oa", "aa", "kappa", "confusion", "split_hash", "config_hash"))
    train = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=1"]
    workshop.run(tmp_path, *train)
    assert "reused on" in workshop.run(tmp_path, *train)


@pytest.mark.parametrize(
    ("images", "batch", "accumulate", "block"),
    [(50, 8, 1, 0), (50, 16, 2, 0), (7, 4, 3, 0), (64, 64, 1, 0), (403, 16, 1, 5)],  # the last one in object storage
)
def test_the_order_is_the_same_on_any_number_of_ranks(
    images: int, batch: int, accumulate: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(ranks: int) -> list[list[int]]:
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        batches_of_all: list[list[int]] = []
        for rank in range(ranks):
            monkeypatch.setenv("RANK", str(rank))
            sampling = Sampling(batch, 3, 0, "k", accumulate=accumulate)
            batches = PoolBatches(Sized(images, block), None, 2, None, sampling)  # type: ignore[arg-type]
            for number in range(batches.total_steps * accumulate):
                ids = batches.ids(number)[1].tolist()
                if rank == 0:
                    batches_of_all.append(ids)
                else:
                    batches_of_all[number] += ids
        return batches_of_all

    one = order(1)
    assert order(2) == order(4) == one
    whole = images // batch * batch
    flat = [i for b in one for i in b]
    for epoch in range(len(flat) // whole):
        seen = flat[epoch * whole : (epoch + 1) * whole]
        assert len(set(seen)) == whole, "an image comes twice in one pass"


class Sized:
    """A pool of that many images, which are read together by blocks of so many, or one by one."""

    def __init__(self, images: int, block: int) -> None:
        self.images, self.labels = images, None
        self.block_starts = np.append(np.arange(0, images, block), images) if block else None

    def __len__(self) -> int:
        return self.images
