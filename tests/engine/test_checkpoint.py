"""Checkpoints: whole or absent, and a damaged newest one falls back to the one before."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from rsssl.engine.checkpoint import Checkpoints
from rsssl.errors import UserError


def test_round_trip_and_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "w": torch.full((3,), float(step))})
    state = checkpoints.load()
    assert state is not None and state["step"] == 3 and torch.equal(state["w"], torch.full((3,), 3.0))
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == ["checkpoint-000000002.pt", "checkpoint-000000003.pt"]
    assert torch.load(tmp_path / "checkpoint-000000003.pt", weights_only=True)["step"] == 3
    assert not list(tmp_path.glob(".*")), "temporary files are left behind"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "missing"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"step": step, "w": torch.randn(100)})
    checkpoints.wait()
    newest = tmp_path / "checkpoint-000000002.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "truncate": lambda: newest.write_bytes(data[: len(data) // 2]),
        "flip": lambda: newest.write_bytes(data),
        "empty": lambda: newest.write_bytes(b""),
        "missing": newest.unlink,
    }[damage]()
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load()
    assert state is not None and state["step"] == 1
    assert "damaged" in caplog.text


def test_no_whole_checkpoint_left_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})
    checkpoints.wait()
    (tmp_path / "checkpoint-000000001.pt").write_bytes(b"junk")
    with pytest.raises(UserError, match="rm -r"):
        checkpoints.load()


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path) -> None:
    """A real limit on the size of files: the save fails as on a full disk."""
    script = textwrap.dedent("""
        import resource, signal, sys, torch
        from pathlib import Path
        from rsssl.engine.checkpoint import Checkpoints
        from rsssl.errors import UserError
        checkpoints = Checkpoints(Path(sys.argv[1]))
        checkpoints.save(1, {"step": 1, "w": torch.zeros(10)})
        checkpoints.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            checkpoints.save(2, {"step": 2, "w": torch.zeros(100_000)})
            checkpoints.wait()
        except UserError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "no space left" in done.stdout
    state = Checkpoints(tmp_path).load()
    assert state is not None and state["step"] == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
