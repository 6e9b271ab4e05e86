"""A dataset packed in parts by several processes, killed and run again: each tile once, as one process packs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import rsssl
from rsssl.data import chunks, parts
from rsssl.data.packing import pack
from rsssl.data.packs import Packs, open_packed
from rsssl.data.parts import pack_parts
from rsssl.data.prepared import load
from rsssl.engine.store import Store
from rsssl.errors import UserError

N, TILES, CHUNK = 60, 9, 4 * 16 * 16 * 3
PACKING = """
import os, signal, sys, time
from pathlib import Path
import rsssl.data.chunks as chunks
import rsssl
from rsssl.data.parts import pack_parts
from rsssl.data.prepared import load
from rsssl.engine.store import Store

folder, out, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
conform, count = chunks.conform, [0]

def counted(*image):
    count[0] += 1
    time.sleep(0.004)
    if count[0] == dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return conform(*image)

chunks.conform = counted
pack_parts(rsssl.dataset("folder", folder, on_error="skip"), out, {tiles}, 1, False, {chunk})
print(count[0])
"""


@pytest.fixture
def tiles(tmp_path: Path, random: np.random.Generator) -> Path:
    """Sixty PNGs of 16 pixels in two classes, one of them cut short."""
    for i in range(N):
        path = tmp_path / "tiles" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path / "tiles"


def started(root: Path, out: Path, dies: int = 0) -> subprocess.Popen[str]:
    code = PACKING.format(tiles=TILES, chunk=CHUNK)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(root), str(out), str(dies)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def content(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def parted(root: Path, folder: Path, **options: Any) -> Packs:
    return pack_parts(rsssl.dataset("folder", str(root), on_error="skip"), folder, TILES, 1, False, CHUNK, **options)


def test_parts_are_the_pack_in_pieces(tiles: Path, tmp_path: Path) -> None:
    """Against one pack of all: pixels, names, labels, moments, statistics, what is left out."""
    one = pack(rsssl.dataset("folder", str(tiles), on_error="skip"), tmp_path / "one", workers=1, progress=False)
    many = parted(tiles, tmp_path / "many")
    assert [len(part) for part in many.parts] == [9, 9, 9, 9, 9, 9, 5]
    assert np.array_equal(many.read(np.arange(N - 1)), one.images) and list(many.paths) == list(one.paths)
    assert np.array_equal(many.labels, one.labels) and np.array_equal(many.moments, one.moments)
    assert np.array_equal(many.paths.ids(), one.paths.ids()) and many.skipped == one.skipped
    assert np.allclose(many.card.mean, one.card.mean) and np.allclose(many.card.std, one.card.std)
    assert (many.card.low, many.card.high, many.card.classes) == (one.card.low, one.card.high, one.card.classes)
    again = parted(tiles, tmp_path / "many")
    assert again.fingerprint == many.fingerprint


@pytest.mark.parametrize("dies", [3, 7, 13])
def test_one_of_two_processes_is_killed_and_run_again(tiles: Path, tmp_path: Path, dies: int) -> None:
    """The other goes on, and takes what the dead one held; each tile is decoded once, but for the chunk in hand."""
    parted(tiles, tmp_path / "alone")
    doomed, other = started(tiles, tmp_path / "two", dies), started(tiles, tmp_path / "two")
    assert doomed.wait(60) == -signal.SIGKILL
    again = started(tiles, tmp_path / "two")
    counts = []
    for process in (other, again):
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        counts.append(int(out))
    assert content(tmp_path / "two") == content(tmp_path / "alone")
    whole = open_packed(tmp_path / "two")
    assert isinstance(whole, Packs) and len(set(whole.paths)) == len(whole) == N - 1
    assert N <= dies + sum(counts) <= N + 4  # a chunk has four images
    whole.verify()


def test_both_are_killed_and_one_goes_on(tiles: Path, tmp_path: Path) -> None:
    parted(tiles, tmp_path / "alone")
    both = [started(tiles, tmp_path / "two", dies) for dies in (14, 23)]
    assert [process.wait(60) for process in both] == [-signal.SIGKILL] * 2
    assert not (tmp_path / "two" / "card.json").exists()
    with pytest.raises(FileNotFoundError):
        open_packed(tmp_path / "two")
    parted(tiles, tmp_path / "two")
    assert content(tmp_path / "two") == content(tmp_path / "alone")


def test_a_part_in_other_hands_is_waited_for(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not touched while its lock is held, and taken when that is released without it being there."""
    held, looks = FileLock(tmp_path / "two" / ".part-00002.lock"), []
    (tmp_path / "two").mkdir()
    held.acquire()

    def look(_: float) -> None:
        looks.append((tmp_path / "two" / "part-00002").exists())
        if len(looks) == 3:
            held.release()

    monkeypatch.setattr(parts.time, "sleep", look)
    with caplog.at_level("INFO"):
        whole = parted(tiles, tmp_path / "two")
    assert looks == [False] * 3 and len(whole) == N - 1
    assert caplog.text.count("the 1 parts that are left are in the hands of other processes") == 1


def test_the_first_process_decides_the_form_for_all(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parted(tiles, tmp_path / "two")
    (tmp_path / "two" / "part-00003" / "images.bin").unlink()
    (tmp_path / "two" / "card.json").unlink()
    before = content(tmp_path / "two")
    monkeypatch.setattr(parts, "find_form", lambda *_: pytest.fail("the form is known"))
    pack_parts(rsssl.dataset("folder", str(tiles), on_error="skip"), tmp_path / "two", 1000, 1, False, CHUNK)
    after = content(tmp_path / "two")
    assert {name: after[name] for name in before} == before  # in parts of nine, as begun
    assert "part-00003/images.bin" in after and "card.json" in after


def test_parts_of_images_that_changed_are_named(tiles: Path, tmp_path: Path) -> None:
    parted(tiles, tmp_path / "two")
    os.utime(tiles / "a" / "0.png", ns=(1, 1))
    with pytest.raises(UserError, match=r"holds parts of other images, or of these before they changed: remove it"):
        parted(tiles, tmp_path / "two")


def test_an_unusable_image_ends_its_process_and_is_named(tiles: Path, tmp_path: Path) -> None:
    dataset = rsssl.dataset("folder", str(tiles))
    with pytest.raises(UserError, match=r"b/59\.png cannot be used"):
        pack_parts(dataset, tmp_path / "two", TILES, 1, False, CHUNK)
    assert not (tmp_path / "two" / "card.json").exists()


def test_archives_and_scenes_are_parted_too(tiles: Path, tmp_path: Path, random: np.random.Generator) -> None:
    pytest.importorskip("osgeo")
    for k in range(2):
        with tarfile.open(tmp_path / f"{k}.tar", "w") as archive:
            for file in sorted(tiles.rglob("*.png"))[30 * k : 30 * k + 30]:
                archive.add(file, file.name)
    scene = random.integers(1, 255, (3, 128, 128)).astype(np.uint8)
    rsssl.data.raster.write_geotiff(tmp_path / "s.tif", scene, (5e5, 10, 0, 5.4e6, 0, -10), "EPSG:32632")
    for name, fields in (
        ("folder", {"root": f"{tmp_path}/*.tar", "on_error": "skip"}),
        ("scene", {"scenes": str(tmp_path / "s.tif"), "window": 16}),
    ):
        one = pack(rsssl.dataset(name, **fields), tmp_path / f"{name}1", 1, False)
        many = pack_parts(rsssl.dataset(name, **fields), tmp_path / f"{name}2", 50, 1, False)
        assert len(many.parts) == -(-len(one) // 50) and list(many.paths) == list(one.paths)
        assert np.array_equal(many.read(np.arange(len(one))), one.images)
        if one.ground is not None:
            assert many.ground is not None and np.array_equal(many.ground.lonlat, one.ground.lonlat)


def test_the_ranks_of_torchrun_share_the_parts(tiles: Path, tmp_path: Path, workshop: Any) -> None:
    keys = ["task=pack", "dataset=folder", f"dataset.root={tiles}", "dataset.on_error=skip", "pack.tiles=9"]
    text = workshop.run(tmp_path / "ranks", *keys, ranks=2)
    alone = workshop.run(tmp_path / "alone", *keys)
    assert "in 7 parts of 9" in text and "in 7 parts of 9" in alone
    (ranks,), (one,) = ((tmp_path / name / "store" / "pack").glob("*/card.json") for name in ("ranks", "alone"))
    assert json.loads(ranks.read_text()) == json.loads(one.read_text())
    assert {k: v for k, v in content(ranks.parent).items() if not k.endswith(("done.json", "inputs.json"))} == {
        k: v for k, v in content(one.parent).items() if not k.endswith(("done.json", "inputs.json"))
    }


@pytest.mark.parametrize("begun", ["in parts", "as one"])
def test_a_packing_goes_on_as_it_was_begun(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """Whatever pack.tiles the second command has: a process that is still at work would make something else."""
    dataset, store = rsssl.dataset("folder", str(tiles), on_error="skip"), Store(tmp_path / "store")
    conform, count = chunks.conform, [0]

    def interrupted(*image: Any) -> Any:
        count[0] += 1
        if count[0] == 25:
            raise KeyboardInterrupt
        return conform(*image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chunks, "conform", interrupted)
        load(dataset, store, 1, tiles=9 if begun == "in parts" else None)
    data = load(dataset, store, 1, tiles=None if begun == "in parts" else 9)
    assert len(data.pack) == N - 1 and len(data.pack.parts) == (7 if begun == "in parts" else 1)
    assert load(dataset, Store(tmp_path / "store"), 1, tiles=5).pack.fingerprint == data.pack.fingerprint
