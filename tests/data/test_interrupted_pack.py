"""A packing that is killed, and packs that are damaged or out of date."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.errors import UserError

CHUNK = 4 * 16 * 16 * 3
KILLED = """
import json, os, signal, sys, time
import rsssl.data.chunks as chunks, rsssl.data.worker as worker
import rsssl
from rsssl.data.packing import pack

start, count = worker.Worker.__init__, dict(conform=0, dumps=0, replace=0, unlink=0)

def tell(self, plan):
    start(self, plan)
    print(self._process.pid, flush=True)

def dying(name, call):
    def counted(*args, **kwargs):
        count[name] += 1
        if (name, count[name]) == ({name!r}, {number}):
            time.sleep(0.4 * (name == "conform"))  # the other process has begun
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

worker.Worker.__init__ = tell
chunks.conform = dying("conform", chunks.conform)
json.dumps = dying("dumps", json.dumps)
os.replace, os.unlink = dying("replace", os.replace), dying("unlink", os.unlink)
pack(rsssl.dataset("folder", sys.argv[1], on_error="skip"), sys.argv[2], workers=2, progress=False, chunk_bytes={chunk})
"""


@pytest.fixture
def pictures(tmp_path: Path, random: np.random.Generator) -> Path:
    """Forty PNGs of 16 pixels, one of them cut short."""
    for i in range(40):
        (tmp_path / "tiles" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "tiles" / "ab"[i % 2] / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path / "tiles"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("name", "number"), [("conform", 2), ("dumps", 8), ("replace", 1), ("replace", 2), ("replace", 3), ("unlink", 5)]
)
def test_killed_at_any_moment_and_run_again(pictures: Path, tmp_path: Path, name: str, number: int) -> None:
    """SIGKILL in a chunk, before the fifth of ten is noted down, before each rename, before the clean-up: the next run
    ends with the same bytes."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    code = KILLED.format(chunk=CHUNK, name=name, number=number)
    with open(tmp_path / "said", "w") as said:  # no pipe: a worker that goes on would hold it open
        dead = subprocess.run(
            [sys.executable, "-c", code, str(pictures), str(tmp_path / "killed")], env=env, stdout=said
        )
    assert dead.returncode == -signal.SIGKILL
    workers = [int(line) for line in (tmp_path / "said").read_text().split()]
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers and not any(map(alive, workers)), "a decoding process outlived the one that it works for"
    if name != "unlink":
        with pytest.raises(FileNotFoundError):
            Pack.open(tmp_path / "killed")

    dataset = rsssl.dataset("folder", str(pictures), on_error="skip")
    again = pack(dataset, tmp_path / "killed", workers=1, progress=False, chunk_bytes=CHUNK)
    pack(dataset, tmp_path / "whole", workers=1, progress=False, chunk_bytes=CHUNK)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert len(again) == 39 and len(again.skipped) == 1
    again.verify()


def test_the_cards_checksum_is_the_datas(packed: Callable[..., Pack], root: Path) -> None:
    whole = packed(root)
    assert whole.sha256 == hashlib.sha256(np.ascontiguousarray(whole.images).tobytes()).hexdigest()
    content = bytearray((whole.folder / "images.bin").read_bytes())
    for at in (0, len(content) // 2, len(content) - 1):
        content[at] ^= 0x80
        (whole.folder / "images.bin").write_bytes(content)
        with pytest.raises(UserError, match="checksum"):
            Pack.open(whole.folder).verify()
        content[at] ^= 0x80
    (whole.folder / "images.bin").write_bytes(content)
    Pack.open(whole.folder).verify()


@pytest.mark.parametrize("how", ["empty", "half", "absent", "longer", "changed"])
@pytest.mark.parametrize(
    "name",
    ["card.json", "images.bin", "blocks.bin", "moments.bin", "names.bin", "ids.bin", "labels.bin", "skipped.json"],
)
def test_a_damaged_pack_is_named_and_made_again(packed: Callable[..., Pack], root: Path, name: str, how: str) -> None:
    """Whatever has happened to its files: opening says so, packing makes it anew."""
    (root / "field" / "bad.jpg").write_bytes(b"no picture")
    whole = packed(root, on_error="skip")
    file, data = whole.folder / name, (whole.folder / name).read_bytes()
    if how == "absent":
        file.unlink()
    else:
        changed = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        half = data[: len(data) // 2]
        file.write_bytes({"empty": b"", "half": half, "longer": data + b"more", "changed": changed}[how])
    with pytest.raises(
        FileNotFoundError if (name, how) == ("card.json", "absent") else UserError, match=r"rm -r|card\.json"
    ):
        Pack.open(whole.folder)
    assert packed(root, on_error="skip").fingerprint == whole.fingerprint and file.read_bytes() == data


@pytest.mark.parametrize("change", ["touched", "replaced", "added", "removed", "renamed", "another size asked for"])
def test_a_stale_pack_is_made_again(packed: Callable[..., Pack], root: Path, change: str) -> None:
    first, victim = packed(root), root / "field" / "3.jpg"
    stamp = (first.folder / "card.json").stat().st_mtime_ns
    packed(root)
    assert (first.folder / "card.json").stat().st_mtime_ns == stamp, "nothing has changed"
    if change == "touched":
        os.utime(victim, ns=(1, 1))
    elif change == "replaced":
        victim.write_bytes((root / "water" / "3.jpg").read_bytes())
    elif change == "added":
        (root / "field" / "new.jpg").write_bytes(victim.read_bytes())
    elif change == "removed":
        victim.unlink()
    elif change == "renamed":
        victim.rename(root / "field" / "33.jpg")
    second = packed(root, **({"size": 24} if change.startswith("another") else {}))
    assert second.source != first.source and (second.folder / "card.json").stat().st_mtime_ns != stamp
    assert (second.fingerprint == first.fingerprint) == (change == "touched")
    assert sorted(second.paths) == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))
    assert json.loads((second.folder / "card.json").read_text())["root"] == str(root)
