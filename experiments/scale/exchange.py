"""What 2 and 4 ranks of a training exchange in a step, on this machine, and what the loss itself costs.

`exchange.py REPEATS` is one rank, with torchrun's environment set.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from rsssl.engine import distributed
from rsssl.methods.losses import nt_xent

BATCH, WIDTH = 16_384, 128  # images a step over all ranks, and dimensions of an embedding
GRADIENTS = {"resnet18": 11_700_000, "resnet50": 25_600_000}  # parameters, with ImageNet's head
LEAST = 64 << 10  # of the quick sizes


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds, all ranks starting together."""
    taken = []
    for _ in range(repeats + 1):  # the first connects and is not counted
        torch.distributed.barrier()
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def one_rank(repeats: int) -> dict[str, Any]:
    """Seconds of this rank's gather of the embeddings (forward; with backward) and of its sum of the gradients."""
    distributed.start()
    ranks, found = distributed.world_size(), {}
    for views in (2, 4):
        z = torch.randn(views, BATCH // ranks, WIDTH, requires_grad=True)
        weights = torch.randn(views, BATCH, WIDTH)

        def backward(z: torch.Tensor = z, weights: torch.Tensor = weights) -> None:
            distributed.gather(z, dim=1).backward(weights)

        with torch.no_grad():
            forward = timed(lambda z=z: distributed.gather(z, dim=1), repeats)
        found[f"embeddings_{views}_views"] = {
            "MB": weights.nbytes / 1e6,
            "gather_seconds": forward,
            "gather_and_backward_seconds": timed(backward, repeats),
        }
    for name, n in GRADIENTS.items():
        x = torch.zeros(n if repeats > 1 else LEAST)
        found[f"gradients_{name}"] = {
            "MB": x.nbytes / 1e6,
            "sum_seconds": timed(lambda x=x: torch.distributed.all_reduce(x), repeats),
        }
    torch.distributed.destroy_process_group()
    return found


def between(ranks: int, repeats: int) -> dict[str, Any]:
    """Rank 0's figures of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(ranks):
        settings = {
            "RANK": rank,
            "WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        children.append(
            subprocess.Popen(
                [sys.executable, __file__, str(repeats)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {k: str(v) for k, v in settings.items()},
            )
        )
    said = [child.communicate(timeout=300)[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("a rank failed: its reason is above")
    return json.loads(said[0].splitlines()[-1])


def loss(quick: bool) -> dict[str, Any]:
    """Seconds of NT-Xent, forward and backward, of a whole batch on one thread, as every rank works it out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other when anything else runs
    found: dict[str, Any] = {"threads": 1}
    for images in (512,) if quick else (4_096, BATCH):
        z = torch.randn(2, images, WIDTH, requires_grad=True)
        start = time.perf_counter()
        nt_xent(z, 0.2).backward()
        taken = time.perf_counter() - start
        flop = 6 * (2 * images) ** 2 * WIDTH  # three products of (N, D) and (D, N): one forward, two for the gradient
        found[str(images)] = {"seconds": taken, "GFLOP": flop / 1e9, "GFLOP_per_second": flop / 1e9 / taken}
    torch.set_num_threads(threads)
    return found


def measure(quick: bool, advance: Callable[[float, str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ranks in (2,) if quick else (2, 4):
        found[f"{ranks}_processes"] = between(ranks, 1 if quick else 7)
        advance(0.3, f"exchange: {ranks} processes")
    found["loss"] = loss(quick)
    advance(0.4, "exchange: the loss")
    return found


if __name__ == "__main__":
    print(json.dumps(one_rank(int(sys.argv[1]))))
