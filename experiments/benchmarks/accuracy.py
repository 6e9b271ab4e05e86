"""Seconds of SimCLR pre-training to the accuracy that lightly's own example reaches; judged alike, on the same images.

Both train a ResNet-18 on the same 6,000 images of EuroSAT RGB's pool. lightly: examples/pytorch/simclr.py of its
repository, with the folder in the place of CIFAR-10 and 64 px views. Ours: `rsssl-run dataset=eurosat_rgb
pretrain.images=6000`, at several lengths, each a schedule of its own. Judge: linear probe on frozen features, 20 labels
a class, five draws, the fixed test set. About half an hour on two cores.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Bench, Figure, compiled, seconds

LABELS, BATCH, SIZE = 20, 256, 64  # labels a class; lightly's batch and view size


@dataclass(frozen=True)
class Scale:
    """How much is trained and tested."""

    images: int = 6000
    their_epochs: int = 10
    our_epochs: tuple[int, ...] = (1, 2, 3)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tested: int | None = None  # images of the test set; None: all


@dataclass(frozen=True)
class Result:
    """One training: epochs, wall seconds, accuracy for each draw of labels, and the seconds of its loop alone."""

    epochs: int
    seconds: float
    accuracies: tuple[float, ...]
    loop: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    def __str__(self) -> str:
        spread = statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        loop = f" (loop {self.loop:.0f} s)" if self.loop else ""
        return f"{epochs} {self.seconds:.0f} s{loop} {100 * self.mean:.1f} ± {100 * spread:.1f} %"


def figures(bench: Bench) -> Iterator[Figure]:
    import torch

    from rsssl.compose import Composer
    from rsssl.jobs import prepared
    from rsssl.networks.plan import plan

    torch.set_num_threads(bench.threads)
    scale = Scale(256, 1, (1,), (0,), 500) if bench.quick else Scale()
    overrides = [
        "dataset=eurosat_rgb",
        "backbone=resnet18",
        "start=random",
        "pretrain.average=0",
        f"pretrain.images={scale.images}",
        f"paths.data={bench.data}",
        f"paths.store={bench.scratch / 'store'}",
    ]
    with Composer() as composer:
        cfg = composer.compose([*overrides, f"pretrain.epochs={scale.our_epochs[0]}"])
        task, run = prepared(cfg, {"task": "pipeline"}, bench.scratch)
        todo = plan(task, task.dataset, run)  # packs, splits and draws, as the command does
    results = {n: ours(bench, todo, scale, overrides, n) for n in scale.our_epochs}
    theirs = lightly(bench, todo, scale)
    enough = [n for n, result in results.items() if result.mean >= theirs.mean]
    found = results[enough[0]].seconds if enough else math.inf
    yield Figure(
        f"SimCLR to lightly's accuracy at {LABELS} labels",
        f"lightly {version('lightly')}, {theirs.epochs} epochs",
        "s",
        (found,),
        (theirs.seconds,),
        6,
        False,
        **(bound(bench, cfg, todo, enough[0]) if enough else {}),
        note=f"{scale.images:,} images. lightly: {theirs}. Ours, each its own schedule: "
        f"{'; '.join(map(str, results.values()))}. Accuracy of the linear probe, mean ± standard deviation of "
        f"{len(scale.seeds)} draws of labels, one training each. lightly's seconds are those of its training loop, "
        "ours those of the whole command, start-up and online probe included; the pack, made once, is not counted."
        + ("" if enough else " None of ours reached lightly's accuracy."),
    )


def say(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def ours(bench: Bench, todo: Any, scale: Scale, overrides: list[str], epochs: int) -> Result:
    """The command of the documentation, in a process of its own."""
    from rsssl.networks.weights import from_file

    run = bench.scratch / f"run-{epochs}"
    command = [
        sys.executable,
        "-m",
        "rsssl.run",
        "task=pretrain",
        *overrides,
        f"pretrain.epochs={epochs}",
        f"hydra.run.dir={run}",
    ]
    env = compiled(bench.scratch) | {"OMP_NUM_THREADS": str(bench.threads)}
    subprocess.run(
        [sys.executable, "-c", "import rsssl.networks.pretraining, rsssl.run"], env=env, check=True
    )  # compiles
    took = seconds(lambda: subprocess.run(command, env=env, check=True, stdout=sys.stderr))
    made = json.loads((run / "pretrain.json").read_text())["pretrain"]
    weights = from_file(Path(made["weights"]), todo.parts[0])
    accuracies = judged(todo.parts[0], weights.build, weights.preprocess, scale)
    result = Result(epochs, took, accuracies, made["seconds"])
    say(f"ours: {result}")
    return result


def lightly(bench: Bench, todo: Any, scale: Scale) -> Result:
    """lightly's examples/pytorch/simclr.py on the same images: its transform, loader, model, loss, optimizer, loop."""
    import torch
    import torchvision
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from torch import nn

    from rsssl.models.preprocess import Preprocess

    data = todo.parts[0]
    files = [data.pack.paths[i] for i in todo.indices[0]]
    dataset = LightlyDataset(str(data.dataset.root), transform=SimCLRTransform(input_size=SIZE), filenames=files)
    assert len(dataset) == len(files)
    torch.manual_seed(0)
    backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1], nn.Flatten())
    head = SimCLRProjectionHead(512, 512, 128)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=bench.threads
    )
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.06)
    start = time.perf_counter()
    for epoch in range(1, scale.their_epochs + 1):
        total = 0.0
        for batch in loader:
            x0, x1 = batch[0]
            loss = criterion(head(backbone(x0)), head(backbone(x1)))
            total += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        took = time.perf_counter() - start
        say(f"lightly: epoch {epoch} of {scale.their_epochs}, loss {float(total) / len(loader):.3f}, {took:.0f} s")
    mean, std = (tuple(IMAGENET_NORMALIZE[key]) for key in ("mean", "std"))
    result = Result(
        scale.their_epochs, took, judged(data, lambda: backbone, Preprocess(data.pack.card, SIZE, mean, std), scale)
    )
    say(f"lightly: {result}")
    return result


def judged(data: Any, build: Callable[[], Any], preprocess: Any, scale: Scale) -> tuple[float, ...]:
    """Accuracy on the test set of a linear probe on the frozen features, for each draw of the labelled images."""
    import torch

    from rsssl.data.split import labelled_subset
    from rsssl.evaluation.features import CHUNK, Extractor
    from rsssl.jobs import configured

    extract = Extractor(build, data.pack, preprocess, torch.device("cpu"))

    def features(rows: Any) -> Any:
        return torch.cat([extract(rows[i : i + CHUNK]).float() for i in range(0, len(rows), CHUNK)]).clone()

    pack, classes = data.pack, len(data.pack.card.classes)
    test = data.split.test[:: max(1, len(data.split.test) // scale.tested)] if scale.tested else data.split.test
    x, truth = features(test), torch.from_numpy(pack.labels[test])
    found = []
    for seed in scale.seeds:
        rows = labelled_subset(pack.labels, pack.paths, data.split.pool, LABELS, seed)
        probe = configured("evaluate", "linear").fit(features(rows), torch.from_numpy(pack.labels[rows]), classes, seed)
        found.append(float((probe.scores(x).argmax(1) == truth).float().mean()))
    return tuple(found)


def bound(bench: Bench, cfg: Any, todo: Any, epochs: int) -> dict[str, Any]:
    """Seconds of our schedule if the backbone's forward and backward products ran at the machine's peak."""
    import torch
    from hydra.utils import instantiate
    from torch.utils.flop_counter import FlopCounterMode

    from rsssl.networks.training import stage_size

    bands = todo.parts[0].pack.card.n_bands
    steps = todo.n_images // cfg.pretrain.batch_size * epochs
    size_at = stage_size(todo.preprocess.size, [(float(u), float(s)) for u, s in cfg.pretrain.progressive])
    sizes = [size_at(step, steps) for step in range(steps)]
    backbone = instantiate(cfg.backbone, in_chans=bands, seed=0).train()
    flops = 0.0
    for size in set(sizes):
        with FlopCounterMode(display=False) as counter:
            backbone(torch.randn(2, bands, size, size)).sum().backward()
        flops += counter.get_total_flops() / 2 * sizes.count(size) * cfg.pretrain.batch_size * cfg.ssl.get("views", 2)
    return {
        "bound": flops / bench.flops,
        "bound_by": f"{flops / 1e12:.1f} TFLOP of the backbone's forward and backward passes over the schedule at "
        f"{bench.flops / 1e9:.0f} GFLOP/s",
    }
