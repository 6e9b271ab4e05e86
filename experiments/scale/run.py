"""What would a billion tiles on 64 GPUs need? Measures the pieces, simulates order and packs at that size; tables.

    python experiments/scale/run.py [--quick] [--only order,packs] [--folder DIR]

DIR holds 4.3 GB while it runs (and sparse files that look like 12.3 TB); all of it is removed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from needs import report
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PARTS = {
    "rounds": 55,
    "order": 100,
    "packs": 90,
    "reading": 60,
    "checkpoints": 20,
    "exchange": 55,
}  # name: seconds, for the bar
MODULES = {"checkpoints": "saves"}  # where the module has another name
IN_FOLDER = ("packs", "reading", "checkpoints")


def machine() -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores} cores, {memory:.0f} GiB, {gpu}, torch {torch.__version__}, Python {sys.version.split()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes: a smoke test, numbers that mean nothing")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; the others keep their results")
    parser.add_argument(
        "--folder", type=Path, help="where the packs are made; the system's temporary folder if not given"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    names = [name for name in PARTS if name in options.only.split(",")]
    results: dict[str, Any] = {}
    if not options.quick and options.out.is_file():
        results = json.loads(options.out.read_text())
    with (
        tempfile.TemporaryDirectory(prefix="rsssl-scale-", dir=options.folder) as folder,
        tqdm(total=100.0, bar_format="{desc:<34} {percentage:3.0f}% |{bar}| {elapsed} <{remaining}") as bar,
    ):
        whole = sum(PARTS[name] for name in names)
        for i, name in enumerate(names):

            def advance(share: float, text: str, weight: float = 100 * PARTS[name] / whole) -> None:
                bar.set_description_str(text, refresh=False)
                bar.update(min(share * weight, 100 - bar.n))

            module = importlib.import_module(MODULES.get(name, name))
            arguments = [Path(folder)] if name in IN_FOLDER else []
            start = time.perf_counter()
            results[name] = module.measure(options.quick, *arguments, advance)
            bar.update(100 * sum(PARTS[n] for n in names[: i + 1]) / whole - bar.n)
            results.setdefault("runs", {})[name] = {
                "seconds": round(time.perf_counter() - start, 1),
                "machine": machine(),
                "date": f"{datetime.date.today():%Y-%m-%d}",
            }
            if not options.quick:
                options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results))


if __name__ == "__main__":
    main()
