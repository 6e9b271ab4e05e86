"""A rank that dies or hangs ends the others, which name it; torchrun starts them again, on one machine or two."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rsssl.engine.tracking import read_metrics
from tests.small import TRAIN

RUN = [*TRAIN, "pretrain.checkpoint_minutes=0", "hydra.run.dir=run"]
LONG = "train('moco_v2', {pack!r}, 'run', 100000, checkpoint_minutes=60, timeout=4, exchange={exchange!r})"


def steps(store: Path) -> int:
    rows = [r for f in store.glob("pretrain/*/metrics.csv") for r in read_metrics(f) if r["name"] == "loss"]
    assert len({r["step"] for r in rows}) == len(rows), "a step stands twice"
    return len(rows)


def weights(store: Path) -> dict[str, torch.Tensor]:
    return load_file(next(store.glob("pretrain/*/backbone.safetensors")))


@pytest.mark.parametrize(
    ("how", "exchange"), [(signal.SIGKILL, "flat"), (signal.SIGKILL, "ddp"), (signal.SIGSTOP, "ddp")]
)
def test_a_killed_or_hung_rank_ends_the_others_and_is_named(
    how: signal.Signals, exchange: str, workshop, until, pack_of_tiles: Path, tmp_path: Path
) -> None:
    pids = workshop.start(
        tmp_path,
        ranks=2,
        warm=["moco_v2", str(pack_of_tiles)],
        code=LONG.format(pack=str(pack_of_tiles), exchange=exchange),
    )
    until(lambda: len(read_metrics(tmp_path / "run" / "metrics.csv")) > 20)
    time.sleep(2.5)  # all have given a sign of life
    os.kill(pids[1], how)
    begin = time.monotonic()
    if how == signal.SIGSTOP:  # it cannot end itself: the others end by themselves
        until(lambda: workshop.log.read_text().count("rank 1 (host") >= 1)
        os.kill(pids[1], signal.SIGKILL)
    codes = workshop.wait()
    assert time.monotonic() - begin < 40 and codes[1] == -signal.SIGKILL and 0 not in codes, codes
    text = workshop.log.read_text()
    assert f"no sign of life from rank 1 (host {os.uname().nodename}, process {pids[1]})" in text, text[-3000:]
    assert ("has made no progress for 4 s" if how == signal.SIGSTOP else "lost contact with the others") in text


def test_a_rank_that_raises_ends_the_others(workshop, pack_of_tiles: Path, tmp_path: Path) -> None:
    code = """
from rsssl.engine.ranks import rank
from rsssl.errors import UserError
run, method = fit('byol', {pack!r}, 'run', 1000, timeout=4)
def fail(*_):
    if rank() == 1 and fail.steps == 5:
        raise UserError("the disk of this machine is broken: type something")
    fail.steps += 1
fail.steps = 0
run.model.register_forward_pre_hook(fail)
try:
    run.run()
except UserError as error:
    rsssl.run.fail(error)
"""
    pids = workshop.start(
        tmp_path, ranks=2, warm=["byol", str(pack_of_tiles)], code=code.format(pack=str(pack_of_tiles))
    )
    assert pids and workshop.wait() == [2, 2]
    text = workshop.log.read_text()
    assert (
        "rsssl (rank 1): the disk of this machine is broken" in text
        and "rank 0 of 2 lost contact with the others" in text
    )


def test_torchrun_restarts_after_a_killed_rank_and_ends_with_the_same_weights(
    workshop, torchrun, until, tiles: Path, tmp_path: Path
) -> None:
    command = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=14", "distributed=ddp"]
    workshop.run(tmp_path / "whole", *command, ranks=2)
    process = torchrun(
        *command, options=["--standalone", "--nproc-per-node=2", "--max-restarts=3"], cwd=tmp_path / "cut"
    )
    until(lambda: steps(tmp_path / "cut" / "store") >= 5)
    ranks = [r for thread in Path(f"/proc/{process.pid}/task").glob("*/children") for r in thread.read_text().split()]
    environment = {r: Path(f"/proc/{r}/environ").read_bytes() for r in ranks}
    (second,) = [r for r in ranks if b"\0RANK=1\0" in environment[r]]
    os.kill(int(second), signal.SIGKILL)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "resumed at step" in text, text[-4000:]
    whole, cut = weights(tmp_path / "whole" / "store"), weights(tmp_path / "cut" / "store")
    assert all(torch.equal(whole[k], cut[k]) for k in whole) and steps(tmp_path / "cut" / "store") == 42


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable, addresses 10.77.0.1 and 10.77.0.2; skips where none may be made."""
    names = [f"rsssl-{os.getpid()}-{i}" for i in (1, 2)]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "veth1", "netns", names[0], "type", "veth", "peer", "name", "veth2", "netns", names[1])
        for i, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{i}/24", "dev", f"veth{i}")
            ip("-n", name, "link", "set", f"veth{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            if shutil.which("ip"):
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        pytest.skip(f"network namespaces are not permitted here ({error})")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def test_two_hosts_train_together_and_survive_the_loss_of_one(
    hosts: list[str], workshop, torchrun, until, tiles: Path, tmp_path: Path
) -> None:
    command = [*RUN, f"dataset.root={tiles}", "pretrain.epochs=14", "distributed=ddp"]
    workshop.run(tmp_path / "whole", *command, ranks=2)
    options = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=10.77.0.1:29400",
        "--rdzv-id=test",
        "--max-restarts=5",
    ]

    def host(i: int) -> subprocess.Popen[str]:
        # as these machines have no names, torchrun is told which of them keeps the rendezvous, and where
        address = [
            f"--local-addr=10.77.0.{i + 1}",
            f"--rdzv-conf=is_host={1 - i},keep_alive_interval=1,keep_alive_max_attempt=3",
        ]
        return torchrun(
            *command,
            options=[*options, *address],
            cwd=tmp_path / "cut",
            prefix=["ip", "netns", "exec", hosts[i]],
            GLOO_SOCKET_IFNAME=f"veth{i + 1}",
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        )

    first, second = host(0), host(1)
    until(lambda: steps(tmp_path / "cut" / "store") >= 5, "two hosts do not train")
    lost = subprocess.run(["ip", "netns", "pids", hosts[1]], capture_output=True, text=True, check=True).stdout.split()
    for pid in lost:  # all of it: torchrun and its rank
        os.kill(int(pid), signal.SIGKILL)
    second.wait()
    time.sleep(5)  # it takes a machine a while to come back
    again = host(1)
    text, _ = first.communicate(timeout=240)
    assert first.returncode == 0 and "resumed at step" in text, text[-4000:]
    again.communicate(timeout=60)
    whole, cut = weights(tmp_path / "whole" / "store"), weights(tmp_path / "cut" / "store")
    assert all(torch.equal(whole[k], cut[k]) for k in whole) and steps(tmp_path / "cut" / "store") == 42
