"""What a run imports: only what its task uses. Seconds of torch, timm, TensorBoard are paid where needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = """
import json, sys
from rsssl.run import main
heavy = {"torch", "timm", "torchvision", "tensorboard", "matplotlib", "osgeo", "sklearn", "pandas"}
imported = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["rsssl-run", *arguments]
    main()
    imported.append(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
print("IMPORTED", json.dumps(imported))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, two_colours: Callable[..., Path]) -> Path:
    """Two classes of 16 JPEGs of 32 pixels, in the folder `images` of this one."""
    folder = tmp_path_factory.mktemp("imports")
    two_colours(folder / "images", n=16, size=32, suffix="jpg")
    return folder


def imported(folder: Path, *tasks: str) -> list[set[str]]:
    """For each task, run after one another in one new process: the heavy packages imported up to its end."""
    images = ["dataset=folder", f"dataset.root={folder / 'images'}"]
    training = [
        *images,
        "backbone.name=resnet10t",
        "start=random",
        "pretrain.epochs=1",
        "pretrain.batch_size=8",
        "tracker=csv",
    ]
    keys = {"pack": images, "pretrain": training, "pipeline": [*training, "ts=2"]}
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "RSSSL_STORE": str(folder / "store"),
        "OMP_NUM_THREADS": "1",
    }
    commands = json.dumps([[f"task={task}", *keys[task]] for task in tasks])
    done = subprocess.run(
        [sys.executable, "-c", RUNS, commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("IMPORTED ")]
    return [set(names) for names in json.loads(lines[0].removeprefix("IMPORTED "))]


def test_packing_needs_no_torch(folder: Path) -> None:
    first, again = imported(folder, "pack", "pack")
    assert first == again == set()


def test_a_cached_evaluation_builds_no_network(folder: Path) -> None:
    trained, evaluated = imported(folder, "pretrain", "pipeline")
    assert {"torch", "timm"} <= trained  # the check below would mean nothing if these names never showed
    assert not {"tensorboard", "matplotlib", "sklearn", "pandas"} & evaluated
    (cached,) = imported(folder, "pipeline")
    assert cached == {"torch"}
