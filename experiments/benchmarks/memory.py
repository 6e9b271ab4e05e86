"""Resident memory while pre-training from a pack of 20 GB, beyond that of the same training on a batch at hand."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Bench, Figure, in_child, peak_mib
from views import packed

SIZE, LIMIT = 20e9, 2048.0  # bytes of the pack; MiB


def enlarge(folder: Path, target: Path, size: float) -> int:
    """A pack at `target` that repeats the images of the pack in `folder` until it has `size` bytes; how many images."""
    import numpy as np

    from rsssl.data.pack import Pack
    from rsssl.data.write_pack import Content, write_pack
    from rsssl.engine.files import HashedFile

    pack = Pack.open(folder)
    times = max(1, round(size / os.path.getsize(folder / "images.bin")))
    target.mkdir()
    with open(target / "images.part", "wb") as file:
        out = HashedFile(file)
        for _ in range(times):
            with open(folder / "images.bin", "rb") as source:
                shutil.copyfileobj(source, out, 1 << 24)
    np.tile(pack.moments, (times, 1, 1)).tofile(target / "moments.part")
    names, labels = [f"{i}/{path}" for i in range(times) for path in pack.paths], np.tile(pack.labels, times)
    files = target / "images.part", out.hexdigest(), target / "moments.part"
    about = {"sums": (times * pack.sums).tolist(), "source": pack.source, "root": pack.root, "done": {}}
    return len(write_pack(target, pack.card, Content(*files, names, labels, None, {}), about))


def train(folder: str | None, steps: int, images: int, threads: int) -> dict[str, Any]:
    """Peak resident MiB of `steps` steps of SimCLR from the pack in `folder` and of reading `images` images as views.

    folder: None for as many steps on one random batch.
    """
    import numpy as np
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from views import CONF

    from rsssl.batch import Batch
    from rsssl.data.chunks import mean_std
    from rsssl.data.loader import PoolBatches, Sampling
    from rsssl.data.pack import Pack
    from rsssl.data.pool import Pool, Source
    from rsssl.engine.device import on_device
    from rsssl.engine.loop import Fit
    from rsssl.methods.simclr import SimCLR
    from rsssl.models.backbone import build_backbone
    from rsssl.models.preprocess import Preprocess
    from rsssl.optim import AdamW, Constant, parameter_groups

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    method = on_device(SimCLR(build_backbone("resnet18", 3), 2, 0.2, 512, 128, 2, bn_last=False), device)
    optimizer = AdamW(parameter_groups(method), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    if folder is None:
        batch = Batch(torch.arange(64), 0, torch.randn(2, 64, 3, 64, 64))
        for _ in range(steps):
            loss = method(batch)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {"peak_mib": peak_mib()}
    pack = Pack.open(folder)
    views = instantiate(OmegaConf.load(CONF / "augment" / "rs.yaml"))

    class Part(PoolBatches):
        """The first steps of an epoch over the whole pack."""

        def __init__(self, n: int, batch: int, steps: int, size: int) -> None:
            pool = Pool([Source(pack, np.arange(len(pack)))])
            preprocess = Preprocess(pack.card, size, *mean_std(pack.sums))
            super().__init__(pool, views, n, preprocess, Sampling(batch, epochs=1, seed=0, key="benchmark"))
            self.total_steps = min(steps, self.total_steps)

    Fit(method, Part(2, 64, steps, 64), optimizer, Constant(0.0), device).run()
    start = time.perf_counter()
    read = sum(len(batch.ids) for batch in Part(1, 512, images // 512, 32).start(0))
    return {"peak_mib": peak_mib(), "read": read, "seconds": time.perf_counter() - start}


def figures(bench: Bench) -> Iterator[Figure]:
    small, _ = packed(bench.data, bench.scratch, "eurosat_rgb")
    large = bench.scratch / "large"
    n = enlarge(small.folder, large, SIZE / 100 if bench.quick else SIZE)
    gigabytes = os.path.getsize(large / "images.bin") / 1e9
    steps, images = (2, 5000) if bench.quick else (40, n // 2)
    found = in_child("memory", "train", folder=str(large), steps=steps, images=images, threads=bench.threads)
    alone = in_child("memory", "train", folder=None, steps=steps, images=0, threads=bench.threads)
    shutil.rmtree(large)
    for result in (found, alone):
        if "error" in result:
            raise RuntimeError(result["error"])
    extra = found["peak_mib"] - alone["peak_mib"]
    yield Figure(
        f"peak resident memory of pre-training from a pack of {gigabytes:.1f} GB, beyond the model's",
        "limit",
        "MiB",
        (extra,),
        (LIMIT,),
        1.0,
        False,
        None,
        "",
        f"{found['peak_mib']:.0f} MiB in all, {alone['peak_mib']:.0f} MiB for the same {steps} steps on one batch; "
        f"{n:,} images; {found['read']:,} of them read in random order as one view of 32 px each after the {steps} "
        f"steps, in {found['seconds']:.0f} s ({found['read'] / found['seconds']:.0f} images/s)",
    )
