"""`task=store`: what the store holds, and what of it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsssl.jobs import run_here


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_everything_is_read_and_damage_is_named_and_thrown_away(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSSSL_STORE", str(tmp_path / "store"))
    keys = ["dataset=folder", f"dataset.root={root}", f"hydra.run.dir={tmp_path / 'run'}"]
    folder = Path(run_here(["task=pack", *keys], None)["folder"])
    task = ["task=store", f"hydra.run.dir={tmp_path / 'run'}"]
    whole = run_here(task, None)
    assert whole["artifacts"] == 1 and whole["damaged"] == {}
    assert whole["bytes"] == sum(f.stat().st_size for f in folder.iterdir())
    flip(folder / "images.bin")
    assert run_here([*task, "verify=false"], None)["damaged"] == {}
    assert run_here(task, None)["damaged"] == {str(folder): ["images.bin"]}
    assert "DAMAGED: images.bin" in capsys.readouterr().out
    run_here([*task, "mend=true"], None)
    assert not (folder / "images.bin").exists() and not (folder / "done.json").exists()
    run_here(["task=pack", *keys], None)
    assert run_here(task, None)["damaged"] == {}
