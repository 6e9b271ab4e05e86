"""Training steps beside other work on the same cores: how threads that wait may wait.

    python experiments/busy/run.py --busy 0 1 2 4

Each setting trains in a process of its own, in turn, for some seconds, beside as many processes that do nothing but
count; the table has a column for each number of them. OMP_WAIT_POLICY is read when torch is loaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

SETTINGS = {
    "2 threads, spinning": (2, {}),
    "2 threads, asleep at once": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    **{
        f"2 threads, asleep after {n:,} spins": (2, {"GOMP_SPINCOUNT": str(n)}) for n in (300, 1000, 3000, 10000, 30000)
    },
    "1 thread": (1, {}),
}
IMAGES, SIZE = 32, 64


def speed(threads: int, seconds: float) -> float:
    """Images a second of EfficientNet-Lite0 in training."""
    import timm
    import torch

    torch.set_num_threads(threads)
    model = timm.create_model("efficientnet_lite0", num_classes=10).to(memory_format=torch.channels_last).train()
    images = torch.randn(IMAGES, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    step()
    begin, steps = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        step()
        steps += 1
    return IMAGES * steps / (time.monotonic() - begin)


def beside(busy: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of every setting, beside so many processes that count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    reached: dict[str, list[float]] = {name: [] for name in SETTINGS}
    try:
        for _ in range(rounds):
            for name, (threads, more) in SETTINGS.items():
                command = [sys.executable, __file__, "--threads", str(threads), "--seconds", str(seconds)]
                reached[name].append(float(subprocess.check_output(command, env=os.environ | more)))
                print(f"{busy} beside, {name}: {reached[name][-1]:.0f} images/s", file=sys.stderr, flush=True)
    finally:
        for other in others:
            other.kill()
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4], help="processes that only count")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each setting, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of this process: used by the script itself")
    asked = parser.parse_args()
    if asked.threads:
        print(speed(asked.threads, asked.seconds))
        return
    columns = {busy: beside(busy, asked.rounds, asked.seconds) for busy in asked.busy}
    print(f"| images/s beside | {' | '.join(map(str, columns))} |\n| --- |{' ---: |' * len(columns)}")
    for name in SETTINGS:
        cells = (", ".join(f"{value:.0f}" for value in column[name]) for column in columns.values())
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
