"""Milliseconds for one view of a batch, by policy and size.  Run: python experiments/benchmarks/augment.py [threads]

Best of ten, bytes as input. Wall time, and in brackets the processor time of all threads: on a shared machine with one
thread, the second is the one to go by.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rsssl.augment import prepare
from rsssl.models.card import SensorCard

CONF = Path(__file__).resolve().parents[2] / "conf" / "augment"
SIZES = ((256, 64, 64, 3), (256, 64, 32, 3), (64, 64, 64, 13), (16, 256, 224, 3), (8, 600, 224, 3))


def main(threads: int, policies: tuple[str, ...] = ("none", "d4", "rs", "s5", "s6", "simclr")) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {threads} threads; wall ms per view (processor ms)")
    for b, side, size, bands in SIZES:
        x = torch.randint(0, 256, (b, bands, side, side), dtype=torch.uint8, device=device)
        zero, one, whole = (0.0,) * bands, (1.0,) * bands, (255.0,) * bands
        names = tuple(map(str, range(bands)))
        card = SensorCard("random", names, "uint8", zero, whole, None, zero, one, (), (side, side))
        row = [f"{side:3} -> {size:3} px, {bands:2} bands, batch {b:3}:"]
        for name in ("prepare", *policies):
            views = None if name == "prepare" else instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
            best, busy = float("inf"), float("inf")
            for epoch in range(10):
                start, cpu = time.perf_counter(), time.process_time()
                if views is None:
                    prepare(x, card, size, zero, one)
                else:
                    ids = torch.arange(b)
                    views.render(x, ids, card, seed=0, epoch=epoch, view=0, size=size, mean=zero, std=one)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best, busy = min(best, time.perf_counter() - start), min(busy, time.process_time() - cpu)
            row.append(f"{name} {best * 1e3:.1f} ({busy * 1e3:.1f})")
        print("  ".join(row), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
