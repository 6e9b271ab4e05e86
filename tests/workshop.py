"""A process that has imported everything, and forks itself for each piece of work: real processes that need no imports.

It reads one JSON object a line: {"argv": [...]} runs rsssl-run, {"code": "..."} runs Python; "ranks" forks that many
processes which see each other as torchrun's do, "cwd", "env" and "log" are theirs, "seconds" and "memory" (in bytes)
their limits, and "warm" and "methods" name what to load before. It answers with a line of process numbers, and, when
all have ended, with a line of exit codes (minus the signal for a killed one).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm  # noqa: F401
import torch
from hydra.utils import instantiate

import rsssl.augment.kernels
import rsssl.launch
import rsssl.networks.pretraining
import rsssl.networks.replaying
import rsssl.networks.weights
import rsssl.optim.optimizers
import rsssl.run
import rsssl.tasks.pipeline
from rsssl.compose import Composer, composed
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source
from rsssl.engine import distributed
from rsssl.engine.batch_norm import over_all_ranks
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.loop import Fit
from rsssl.engine.monitor import CollapseMonitor
from rsssl.engine.tracking import Tracker
from rsssl.methods.base import Method
from rsssl.models.ema import WeightAverage
from rsssl.models.preprocess import Preprocess
from rsssl.optim import Cosine, parameter_groups

SMALL = {
    "moco_v2": ["ssl.queue=24"],
    "nnclr": ["ssl.queue=24"],
    "swav": ["ssl.queue=24"],
    "dino": ["ssl.prototypes=32"],
}


@cache
def config_of(name: str) -> Any:
    """The method's config with a small network and, so that they turn over in a few steps, small queues."""
    if name in ("mae", "dino"):
        network = ["+backbone.kwargs.depth=1", "start=random"]
    else:
        network = ["backbone.name=resnet10t", "start=random", "+backbone.kwargs.channels=[8,16,32,64]"]
    with Composer() as composer:
        return composed(composer, [f"ssl={name}", *network, *SMALL.get(name, [])])


def method_of(name: str, bands: int = 3) -> tuple[Method, Any]:
    """A method and its config."""
    cfg = config_of(name)
    torch.manual_seed(0)
    return instantiate(cfg.ssl, backbone=instantiate(cfg.backbone, in_chans=bands, seed=0)), cfg


def fit(name: str, pack: str, folder: str, steps: int, **options: Any) -> tuple[Fit, Method]:
    """A training of that method, ready to run: eight images a step, a checkpoint after each."""
    packed = Pack.open(pack)
    method, cfg = method_of(name, packed.card.n_bands)
    views = instantiate(cfg.augment, _convert_="all")
    rows = np.arange(len(packed.paths))
    batches = PoolBatches(
        Pool([Source(packed, rows)]),
        views,
        method.n_views,
        Preprocess(packed.card, 16, packed.card.mean, packed.card.std),
        Sampling(8, 1, 0, "order", steps=steps),
        local=method.uses_local,
    )
    over_all_ranks(method)
    optimizer = instantiate(cfg.optimizer, params=parameter_groups(*method.trained_modules()), lr=1e-3, _convert_="all")
    settings: dict[str, Any] = {"checkpoint_minutes": 0.0, "log_every": 1, "monitor": CollapseMonitor()} | options
    settings["average"] = WeightAverage(method.backbone, 0.3)
    return Fit(
        method,
        batches,
        optimizer,
        Cosine(warmup=0.2, final=0.0),
        torch.device("cpu"),
        Tracker(),
        Checkpoints(Path(folder)),
        **settings,
    ), method


def train(name: str, pack: str, folder: str, steps: int, **options: Any) -> None:
    """Trains to the end and leaves `final.pt`, the state of the method and of the average of its weights."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    run, method = fit(name, pack, folder, steps, **options)
    run.run()
    if distributed.rank() == 0:
        average = {f"average.{k}": v for k, v in run.average.module.state_dict().items()}  # type: ignore[union-attr]
        torch.save(method.state_dict() | average, Path(folder) / "final.pt")


@cache
def warm(name: str, pack: str) -> None:
    """What a first training has to compose and to load, done before the fork."""
    fit(name, pack, "", 1)[0].batches.again(0, np.arange(8), 0)  # type: ignore[attr-defined]


def child(job: dict[str, Any], rank: int, port: int) -> int:
    """The forked process's work; its exit code."""
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    signal.alarm(job.get("seconds", 0))
    if "memory" in job:
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    if "ranks" in job:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(job["ranks"]),
            LOCAL_WORLD_SIZE=str(job["ranks"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    try:
        if "argv" in job:
            sys.argv = ["rsssl-run", *job["argv"]]
            rsssl.run.main()
        else:
            distributed.start()
            exec(job["code"], globals())
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job, port, pids = json.loads(line), free_port(), []
        if "warm" in job:
            warm(*job["warm"])
        for name in job.get("methods", []):
            config_of(name)
        for rank in range(job.get("ranks", 1)):
            pid = os.fork()
            if pid == 0:
                os._exit(child(job, rank, port))
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
