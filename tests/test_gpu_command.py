"""The command that settles what only an accelerator can, in small on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).resolve().parents[1] / "experiments" / "gpu" / "run.py"


def test_it_runs_in_small_and_finds_nothing_wrong(tmp_path: Path) -> None:
    """One of its checks; all of them take half a minute of a CPU, and stand in the suite in a form of their own."""
    command = [sys.executable, str(COMMAND), "--cpu", "--only", "trace", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "all is right" in ended.stdout, ended.stdout + ended.stderr[-3000:]
    assert "| a bad step leaves no trace | the loss is nan at step" in (tmp_path / "results.md").read_text()


def test_without_an_accelerator_it_says_what_to_type(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, str(COMMAND)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and "type --cpu" in ended.stderr
