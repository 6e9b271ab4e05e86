"""Packing where it cannot be written: a full disk, a folder of somebody else's, a file in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.errors import UserError

RUN = """
import os, resource, sys
import rsssl
from rsssl.data.packing import pack
from rsssl.errors import UserError
dataset = rsssl.dataset("folder", sys.argv[1])
{before}
try:
    pack(dataset, sys.argv[2], workers={workers}, progress=False, chunk_bytes=200_000)
except UserError as error:
    print(error)
    sys.exit(3)
"""


def run(root: Path, folder: Path, before: str = "", workers: int = 1) -> subprocess.CompletedProcess[str]:
    code = RUN.format(before=before, workers=workers)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.run([sys.executable, "-c", code, str(root), str(folder)], env=env, capture_output=True, text=True)


@pytest.fixture
def big_root(tmp_path: Path, random: np.random.Generator) -> Path:
    """Forty images of 48 KiB."""
    folder = tmp_path / "many" / "one"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.fromarray(random.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder.parent


def test_a_place_below_a_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*paths\.store="):
        pack(rsssl.dataset("folder", str(root)), tmp_path / "file" / "pack", workers=1)


def test_no_write_permission(root: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):  # somebody else has to get as far as here
        if folder.stat().st_uid == os.geteuid() and os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    before = "from rsssl.data import conform, packing, scan, shards; import PIL.Image, tqdm; PIL.Image.init()\n"
    before += "if os.geteuid() == 0: os.seteuid(65534)"
    result = run(root, locked / "pack", before)
    assert result.returncode == 3, result.stderr
    assert (
        "Permission denied" in result.stdout
        and str(locked / "pack") in result.stdout
        and "paths.store=" in result.stdout
    )


def test_a_limit_on_file_size_is_a_full_disk(big_root: Path, tmp_path: Path) -> None:
    target = tmp_path / "pack"
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    result = run(big_root, target, limit)
    assert result.returncode == 3, result.stderr
    assert (
        f"no space left to write {target} (" in result.stdout and "1.9 MiB needed" in result.stdout
    )  # 1,966,080 bytes
    assert "paths.store=" in result.stdout
    assert list(target.iterdir()) == []
    assert run(big_root, target).returncode == 0 and len(Pack.open(target)) == 40


@pytest.mark.parametrize("ballast", [2_000_000, 1_000_000])
def test_a_full_disk(big_root: Path, tiny_disk: Path, ballast: int) -> None:
    """Full at once, and full only at the end, when the images fit and what comes after them does not."""
    (tiny_disk / "ballast").write_bytes(b"\1" * ballast)
    if ballast == 1_000_000:  # the images take 1,966,080 bytes of the 3,145,728
        (tiny_disk / "more").write_bytes(b"\1" * 163_840)
    result = run(big_root, tiny_disk / "pack")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "no space left to write" in result.stdout and "MiB free, 1.9 MiB needed" in result.stdout
    assert not (tiny_disk / "pack" / "card.json").exists()
    (tiny_disk / "ballast").unlink()
    assert run(big_root, tiny_disk / "pack").returncode == 0
    Pack.open(tiny_disk / "pack").verify()


def test_a_disk_that_fills_up_while_workers_write(big_root: Path, tmp_path: Path) -> None:
    """A file system that does not keep the space it promised: the workers' error reaches the user."""
    before = (
        "import rsssl.data.decode as decode\n"
        "decode.allocate = lambda path, size: open(path, 'wb').close()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    )
    result = run(big_root, tmp_path / "pack", before, workers=2)
    assert result.returncode == 3, result.stderr
    assert "no space left to write" in result.stdout
