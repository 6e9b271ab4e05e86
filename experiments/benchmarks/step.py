"""Pre-training as `rsssl-run` does it, against forward, backward and optimizer alone on a batch in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Bench, Figure, seconds
from views import packed

BATCH = 64


def figures(bench: Bench) -> Iterator[Figure]:
    import torch

    torch.set_num_threads(bench.threads)
    pack, _ = packed(bench.data, bench.scratch, "eurosat_rgb")
    for size, views in ((64, 2), (64, 4), (32, 4)):
        yield compare(bench, pack, size, views, 2 if bench.quick else 8 if size == 64 else 24)


def compare(bench: Bench, pack: Any, size: int, views: int, steps: int) -> Figure:
    """Images per second of `steps` steps of the loop, and of as many on one batch, in turn."""
    import numpy as np
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from views import CONF

    from rsssl.data.chunks import mean_std
    from rsssl.data.loader import PoolBatches, Sampling
    from rsssl.data.pool import Pool, Source
    from rsssl.engine.device import on_device
    from rsssl.engine.loop import Fit
    from rsssl.methods.simclr import SimCLR
    from rsssl.models.backbone import build_backbone
    from rsssl.models.preprocess import Preprocess
    from rsssl.optim import AdamW, Constant, parameter_groups

    device = torch.device("cpu")
    method = on_device(SimCLR(build_backbone("resnet18", 3), views, 0.1, 512, 128, 2, bn_last=False), device)
    optimizer = AdamW(parameter_groups(method), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8)
    pool = Pool([Source(pack, np.arange(0, len(pack), len(pack) // (steps * BATCH))[: steps * BATCH])])
    mean, std = (tuple(v.tolist()) for v in mean_std(pack.sums))
    policy = instantiate(OmegaConf.load(CONF / "augment" / "rs.yaml"))
    preprocess = Preprocess(pack.card, size, mean, std)
    batches = PoolBatches(pool, policy, views, preprocess, Sampling(BATCH, 1, 0, "benchmark"))
    resident = next(batches.start(0))

    def loop() -> float:
        return steps * BATCH / seconds(lambda: Fit(method, batches, optimizer, Constant(0.0), device).run())

    def alone() -> float:
        def run() -> None:
            for _ in range(steps):
                loss = method(resident)["loss"]
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        return steps * BATCH / seconds(run)

    loop(), alone()
    pairs = [(loop(), alone()) if i % 2 == 0 else (alone(), loop())[::-1] for i in range(max(1, 2 * bench.repeats - 1))]
    flops = 3 * 2 * macs(size) * views * BATCH  # the backward pass costs two forward passes
    return Figure(
        f"pre-training, ResNet-18, {views} views of {size} px, batch {BATCH}",
        "forward, backward and optimizer alone on a resident batch",
        "images/s",
        tuple(a for a, _ in pairs),
        tuple(b for _, b in pairs),
        0.95,
        True,
        BATCH / (flops / bench.flops),
        f"{flops / 1e9:.0f} GFLOP of convolutions a step (forward {2 * macs(size) / 1e9:.2f} GFLOP a view, "
        "backward twice that)",
    )


def macs(size: int) -> float:
    """Multiply-adds of ResNet-18's convolutions for one 3-band image, counted by running it."""
    import torch
    from torch import nn

    from rsssl.models.backbone import build_backbone

    total = 0.0

    def count(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += out.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]

    model = build_backbone("resnet18", 3).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return total
