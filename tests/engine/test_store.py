"""The artefact store: each stage once, whole or absent, one process at a time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from rsssl.engine.store import Store, digest
from rsssl.errors import UserError


def test_digest_is_the_sha256_of_the_sorted_json() -> None:
    # computed with: printf '{"a":[1,2],"b":0.5}' | sha256sum
    assert digest({"b": 0.5, "a": [1, 2]}) == digest({"a": [1, 2], "b": 0.5})
    import hashlib

    assert digest({"b": 0.5, "a": [1, 2]}) == hashlib.sha256(b'{"a":[1,2],"b":0.5}').hexdigest()[:16]


def test_a_stage_is_built_once_and_then_reused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, built = Store(tmp_path), []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "weights").write_text("w")

    with caplog.at_level(logging.INFO):
        first = store.get("pretrain", {"lr": 1}, build)
        second = store.get("pretrain", {"lr": 1}, build)
        other = store.get("pretrain", {"lr": 2}, build)
    assert built == [first.folder, other.folder]
    assert (first.reused, second.reused, other.reused) == (False, True, False)
    assert second.folder == first.folder and (second.folder / "weights").read_text() == "w"
    assert any("reused" in r.message for r in caplog.records)


def test_unfinished_work_is_found_again_and_never_taken_for_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def dies(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("pretrain", {}, dies)
    seen = []
    artifact = store.get("pretrain", {}, lambda folder: seen.append((folder / "half").read_text()))
    assert seen == ["x"] and not artifact.reused


def _slow_build(folder: Path) -> None:
    with open(folder / "builders", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.6)


def _get(root: str) -> None:
    Store(root).get("pretrain", {"x": 1}, _slow_build)


def test_two_processes_share_one_build(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_get, args=(str(tmp_path),)) for _ in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
        assert p.exitcode == 0
    folder = Store(tmp_path).folder("pretrain", {"x": 1})
    assert len((folder / "builders").read_text().split()) == 1


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"paths\.store=DIR"):
        Store(tmp_path / "file" / "store").get("pack", {}, lambda folder: None)
