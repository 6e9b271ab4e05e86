"""Machines without GDAL, and with bindings that lack their numpy part."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data.packing import pack
from rsssl.data.raster import write_geotiff

RSSSL = Path(__file__).resolve().parents[2] / "rsssl"
RUN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {refused} or name.split(".")[0] in {refused}:
            raise ImportError(f"{{name}} is not here")

sys.meta_path.insert(0, Refuse())
import rsssl
from rsssl.data.packing import pack
from rsssl.data.split import labelled_subset, split
from rsssl.data.synthetic import generate
from rsssl.errors import UserError

for root in sys.argv[2:]:
    try:
        target = sys.argv[1] + "/" + root.rsplit("/", 1)[1]
        found = pack(rsssl.dataset("folder", root), target, workers=1, progress=False)
        parts = split(found.paths, found.labels, 0)
        print("packed", found.fingerprint, len(labelled_subset(found.labels, found.paths, parts.pool, 1, 0)))
    except UserError as error:
        print("refused", " ".join(str(error).split()))
"""


def run(refused: tuple[str, ...], into: Path, *roots: Path) -> list[list[str]]:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    into.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(refused=refused), str(into), *map(str, roots)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=1) for line in done.stdout.splitlines()]


@pytest.fixture
def folders(tmp_path: Path, random: np.random.Generator) -> dict[str, Path]:
    """Folders of one kind of image each; the last two only GDAL reads."""
    made = {}
    kinds = ("jpg", "png", "bmp", "webp", "tif", "13 bands.tif", "lzw.tif", "jp2")
    for kind in kinds:
        made[kind] = tmp_path / "tiles" / kind.replace(" ", "-")
        for i in range(8):
            folder = made[kind] / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            if kind == "13 bands.tif":
                write_geotiff(
                    folder / f"{i}.tif", random.integers(1, 9999, (13, 16, 16), dtype=np.uint16), crs="EPSG:32632"
                )
            elif kind == "tif":
                write_geotiff(folder / f"{i}.tif", image.transpose(2, 0, 1))
            elif kind == "lzw.tif":
                Image.fromarray(image).save(folder / f"{i}.tif", compression="tiff_lzw")
            elif kind == "jp2":
                (folder / f"{i}.jp2").write_bytes(b"whatever")
            else:
                Image.fromarray(image).save(folder / f"{i}.{kind}")
    return made


def test_all_but_what_only_gdal_reads_works_without_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same packs, to the last bit, as where GDAL is; for the rest a sentence with the command that installs it."""
    found = dict(zip(folders, run(("osgeo", "gdal"), tmp_path / "bare", *folders.values()), strict=True))
    for kind, (what, text) in found.items():
        if kind in ("lzw.tif", "jp2"):
            assert what == "refused" and text.startswith(f"{folders[kind]}/")  # the file's fault it is not
            assert "can only be read with GDAL, which is not installed" in text
            built = "apt-get install" in text and "gdal[numpy]==$(gdal-config --version)" in text
            assert built if sys.version_info < (3, 12) else "pip install 'rsssl[gdal]'" in text
        else:
            here = pack(
                rsssl.dataset("folder", str(folders[kind])), tmp_path / f"here-{kind}", workers=1, progress=False
            )
            assert (what, text) == ("packed", f"{here.fingerprint} 2"), kind


def test_gdals_numpy_part_is_not_needed(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its ABI breaks with each numpy, and it is missing where numpy was not there when the bindings were built."""
    pytest.importorskip("osgeo.gdal")
    parts = ("osgeo._gdal_array", "osgeo.gdal_array", "osgeo.gdalnumeric", "_gdal_array")
    ((what, text),) = run(parts, tmp_path / "half", folders["lzw.tif"])
    here = pack(rsssl.dataset("folder", str(folders["lzw.tif"])), tmp_path / "here", workers=1, progress=False)
    assert (what, text) == ("packed", f"{here.fingerprint} 2")


def test_processes_open_their_own_gdal_files(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handles of a forked process share their position in the file with the parent's: nothing is forked."""
    pytest.importorskip("osgeo.gdal")
    dataset = rsssl.dataset("folder", str(folders["lzw.tif"]))
    one = pack(dataset, tmp_path / "one", workers=1, progress=False)  # GDAL is in use here

    def never() -> int:
        raise AssertionError("a process is forked while GDAL is loaded")

    monkeypatch.setattr(os, "fork", never)
    three = pack(dataset, tmp_path / "three", workers=3, progress=False, chunk_bytes=16 * 16 * 3)
    assert three.fingerprint == one.fingerprint


def test_one_file_imports_gdal() -> None:
    importers = set()
    for path in RSSSL.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("osgeo", "gdal", "rasterio") for name in names):
                importers.add(path.relative_to(RSSSL).as_posix())
    assert importers == {"data/raster.py"}
