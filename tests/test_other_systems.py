"""What macOS and Windows lack is not needed: the whole path without it, in a process where it is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Of Windows: no user signals, no `resource`, no masks of signals; of both: no affinity, no fallocate.
WITHOUT = """
import json, os, signal, sys
sys.modules["resource"] = None
for module, names in ((signal, ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP", "pthread_sigmask")),
                      (os, ("sched_getaffinity", "posix_fallocate", "posix_fadvise", "statvfs"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import rsssl
results = rsssl.run(json.loads(sys.argv[1]))
print(json.dumps({"run": results["run_folder"]}))
rsssl.run(["task=predict", f"checkpoint={results['run_folder']}", f"images={sys.argv[2]}", "out=classes.csv"])
"""


def test_nothing_that_other_systems_lack_is_needed(tmp_path: Path) -> None:
    line = "dataset=synthetic dataset.generate.size=16 dataset.generate.per_class=5 dataset.generate.scene_size=64 ts=2"
    line += " backbone.name=resnet10t start=random pretrain.steps=2 pretrain.batch_size=8 pretrain.probes=1 tracker=csv"
    line += (
        f" pretrain.image_size=32 evaluate=linear baselines=false workers=1 device=cpu hydra.run.dir={tmp_path / 'run'}"
    )
    env = os.environ | {"RSSSL_STORE": str(tmp_path / "store")}
    tiles = tmp_path / "store" / "synthetic"
    command = [sys.executable, "-c", WITHOUT, json.dumps(line.split()), str(tiles)]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "run" / "results.json").is_file() and (tmp_path / "classes.csv").stat().st_size > 100
