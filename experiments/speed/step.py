"""Where the time of a pre-training step goes: by its parts, and by kinds of operations (README.md).

    python experiments/speed/step.py dataset=eurosat_rgb dataset.root=DIR [--steps 3] [overrides]

Parts are in seconds of processor time, the median of `--steps` steps, so that other work on the machine changes little;
kinds are shares of torch's profiler, which sees one more step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from rsssl.compose import Composer, composed
from rsssl.engine import memory
from rsssl.engine.parallel import Flat
from rsssl.jobs import prepared
from rsssl.networks.budget import SHARES, size_of
from rsssl.networks.plan import Plan, plan
from rsssl.networks.training import Training, assemble
from rsssl.optim import layer_rates, parameter_groups

KINDS = {
    "aten::native_batch_norm": "batch norm, forward",
    "aten::native_batch_norm_backward": "batch norm, backward",
    "aten::hardtanh_backward": "activation, backward",
    "aten::clamp": "activation, forward",
    "aten::clamp_": "activation, forward",
    "aten::copy_": "copies",
    "aten::mm": "linear layers",
    "aten::addmm": "linear layers",
    "aten::_fused_adamw_": "optimizer",
    "aten::lerp_": "average of the weights",
    "LimitedConvolution": "depthwise, forward",
    "LimitedConvolutionBackward": "depthwise, backward",
}


def training_of(overrides: list[str]) -> tuple[Training, Plan]:
    """The training of a command, ready for its first step."""
    overrides = ["task=pretrain", *overrides]
    with Composer(None) as composer:
        composed(composer, overrides, needed=True)
        cfg = composer.compose(overrides, hydra=True)
        options = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
        OmegaConf.set_struct(cfg, False)
        cfg.pop("hydra")
        task, run = prepared(cfg, options, Path(tempfile.mkdtemp()), overrides)
    planned = plan(task, task.dataset, run)
    return assemble(planned, run, SHARES), planned


class Step:
    """A step of a training, which says what each part of it took."""

    def __init__(self, training: Training, planned: Plan) -> None:
        self.training, keys = training, planned.recipe.pretrain
        rates = layer_rates(training.method.backbone, planned.lr, keys.layer_decay)
        groups = parameter_groups(*training.method.trained_modules(), rates=rates)
        self.optimizer = instantiate(planned.recipe.optimizer, lr=planned.lr, params=groups, _convert_="all")
        self.flat = Flat(training.method)

    def take(self, number: int) -> dict[str, float]:
        """Takes a step with the views of step `number`; seconds of processor time by part."""
        seconds: dict[str, float] = {}

        @contextmanager
        def part(name: str) -> Iterator[None]:
            begin = time.process_time()
            with torch.profiler.record_function(f"part: {name}"):
                yield
            seconds[name] = time.process_time() - begin

        training: Any = self.training
        with part("views"):
            batch = training.batches.again(*training.batches.ids(number), number)
        with part("forward"):
            loss = training.method(batch)["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        with part("backward"):
            loss.backward()
        with part("update"):
            self.flat.tell(torch.zeros(1))
            self.flat.finish()
            self.optimizer.step()
            if training.average:
                training.average.follow(number, SHARES)
        return seconds


def kind_of(event: Any) -> str:
    """What an operation is counted as."""
    backward = event.name == "aten::convolution_backward"
    if backward or event.name == "aten::mkldnn_convolution":
        weight = event.input_shapes[2 if backward else 1]
        kind = "depthwise" if weight[1] == 1 else "pointwise" if weight[2:] == [1, 1] else "stem"
        return f"{kind}, {'backward' if backward else 'forward'}"
    return KINDS.get(event.name, "all else")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    memory.keep()
    matrix = torch.randn(1024, 1024)
    rates = []
    for _ in range(9):
        begin = time.process_time()
        matrix @ matrix
        rates.append(2e-9 * 1024**3 / (time.process_time() - begin))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; matrix product {max(rates):.0f} GFLOP/s")
    training, planned = training_of(options.overrides)
    step = Step(training, planned)
    sizes = {size_of(training, n, SHARES): n for n in reversed(range(SHARES - options.steps - 2))}
    for size, first in sorted(sizes.items()):
        step.take(first)
        taken = [step.take(first + n) for n in range(options.steps)]
        parts = {name: statistics.median(t[name] for t in taken) for name in taken[0]}
        said = ", ".join(f"{name} {seconds:.3f}" for name, seconds in parts.items())
        print(f"{size} pixels: {sum(parts.values()):.3f} s of processor time ({said})")
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            step.take(first)
        kinds: Counter[str] = Counter()
        for event in seen.events():
            kinds[kind_of(event)] += event.self_cpu_time_total
        for kind, microseconds in kinds.most_common():
            print(f"  {kind:28} {100 * microseconds / kinds.total():5.1f} %")


if __name__ == "__main__":
    main()
