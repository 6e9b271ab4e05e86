"""What features of a frozen network cost on a CPU: with freed memory given back to the system or kept, and folded.

    python experiments/speed/features.py [--threads 2] [--network tf_efficientnet_lite0] [--size 128]

Each line is measured in a process of its own, since memory that is kept once stays so.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import timm
import torch

from rsssl.engine import memory
from rsssl.models.folded import folded

IMAGES, PASSES = 256, 5


def measure(options: argparse.Namespace) -> None:
    """Prints one line of the table."""
    if options.kept:
        memory.keep()
    torch.set_num_threads(options.threads)
    network = timm.create_model(options.network, pretrained=False, num_classes=0).eval()
    images = torch.randn(IMAGES, 3, options.size, options.size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        model = folded(network, 3, options.size) if options.folded else network
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model(images)
        before, taken = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
        for _ in range(PASSES):
            begin = time.perf_counter()
            torch.cat([model(part) for part in images.split(options.batch)])
            taken.append(time.perf_counter() - begin)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // PASSES
    what = f"{'kept' if options.kept else 'given back'} | {'folded' if options.folded else 'as it is'}"
    print(f"| {what} | {options.batch} | {min(taken):.3f} | {IMAGES / min(taken):,.0f} | {faults:,} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--folded", action="store_true")
    options = parser.parse_args()
    if options.batch:
        measure(options)
        return
    print("| memory | batch norm | images at a time | s | images/s | page faults |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for flags in ([], ["--kept"], ["--folded"], ["--kept", "--folded"]):
        for batch in (256, 16) if flags != ["--kept"] else (256,):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], *flags, "--batch", str(batch)], check=True)


if __name__ == "__main__":
    main()
