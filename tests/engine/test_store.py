"""The artefact store: each stage once, whole or absent, one process at a time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from rsssl.engine import integrity
from rsssl.engine.store import Store, digest, recorded
from rsssl.errors import UserError
from rsssl.records import Damaged


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


def damaged(file: Path) -> None:
    """Flips the last bit of a file."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.bin", "done.json", "inputs.json"])
def test_a_damaged_file_is_named_thrown_away_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    store, built = Store(tmp_path), []

    def build(folder: Path) -> None:
        built.append(sorted(f.name for f in folder.iterdir()))
        (folder / "weights.bin").write_text("the right ones")

    folder = store.get("pretrain", {"lr": 1}, build).folder
    damaged(folder / name)
    assert not store.get("pretrain", {"lr": 1}, build).reused
    assert (folder / "weights.bin").read_text() == "the right ones"
    assert len(built) == 2 and (name == "weights.bin") == ("weights.bin" not in built[1])
    assert f"{folder} is damaged" in caplog.text and name in caplog.text
    assert store.get("pretrain", {"lr": 1}, build).reused


def test_a_file_that_is_missing_is_damage_and_one_for_people_may_be_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(folder: Path) -> None:
        (folder / "pictures").mkdir(exist_ok=True)
        for name in ("weights.bin", "metrics.csv", "pictures/1.png"):
            (folder / name).write_text("as it was")

    folder = store.get("pretrain", {}, build).folder
    (folder / "pictures" / "1.png").unlink()
    damaged(folder / "metrics.csv")
    assert store.get("pretrain", {}, build).reused
    assert not (folder / "metrics.csv").exists(), "it is not what was written, and nobody may take it for that"
    (folder / "weights.bin").unlink()
    assert not store.get("pretrain", {}, build).reused


def test_large_files_are_read_where_size_or_time_differ_and_when_everything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "ALWAYS", 8)
    (tmp_path / "small.bin").write_bytes(b"1234")
    (tmp_path / "large.bin").write_bytes(b"1234567890")
    files = integrity.listing(tmp_path)
    for name in ("small.bin", "large.bin"):
        times = (tmp_path / name).stat()
        damaged(tmp_path / name)
        os.utime(tmp_path / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert integrity.changed(tmp_path, files) == ["small.bin"]
    assert integrity.changed(tmp_path, files, everything=True) == ["small.bin", "large.bin"]
    os.utime(tmp_path / "large.bin")
    assert integrity.changed(tmp_path, files) == ["small.bin", "large.bin"]


@pytest.mark.parametrize(
    ("folder", "is_one"),
    [
        ("/store/pretrain/0123456789abcdef", True),
        ("/etc", False),
        ("/store/pretrain/0123456789abcdef/..", False),
        ("pretrain/0123456789abcdef", False),
        ("/store/secrets/0123456789abcdef", False),
    ],
)
def test_results_can_name_nothing_but_an_artefact(folder: str, is_one: bool, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(f'{{"pretrain": {{"folder": "{folder}"}}}}')
    assert recorded(tmp_path) == (Path(folder) if is_one else None)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pretrain": 3}', '{"pretrain": {"folder": 3}}', "{}"])
def test_results_that_cannot_be_read_are_damage_or_name_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    if text in ("", "[]", "{"):
        with pytest.raises(Damaged, match=r"results\.json is damaged"):
            recorded(tmp_path)
    else:
        assert recorded(tmp_path) is None
