"""Packs: what is in them, against another way of reading and summing; when they are made again."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data import chunks, disk, find_form
from rsssl.data.chunks import Plan, mean_std, moment_sums, moments
from rsssl.data.conform import Form, resize
from rsssl.data.decode import Digest
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.readers import Files
from rsssl.errors import UserError
from rsssl.models.card import SensorCard

WRITTEN = ["blocks.bin", "card.json", "ids.bin", "images.bin", "labels.bin", "moments.bin", "names.bin"]


def brute_force(images: np.ndarray, card: SensorCard) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std by masking and summing everything in float64."""
    low, high = (np.array(v).reshape(1, -1, 1, 1) for v in (card.low, card.high))
    unit = np.clip((images.astype(np.float64) - low) / (high - low), 0, 1)
    masked = np.ma.masked_array(unit, mask=images == card.nodata if card.nodata is not None else np.zeros(unit.shape))
    return masked.mean(axis=(0, 2, 3)).data, masked.std(axis=(0, 2, 3)).data


def test_pixels_labels_paths_and_statistics(pictures: Callable[..., Path], tmp_path: Path) -> None:
    root = pictures(5)
    packed = pack(rsssl.dataset("folder", str(root)), tmp_path / "pack", workers=1)
    assert tuple(packed.paths) == tuple(f"{c}/{i:04d}.png" for c in ("field", "water") for i in range(5))
    assert packed.labels.tolist() == [0] * 5 + [1] * 5 and packed.card.classes == ("field", "water")
    for i, path in enumerate(packed.paths):
        assert np.array_equal(packed.images[i].transpose(1, 2, 0), np.asarray(Image.open(root / path)))
    mean, std = brute_force(packed.images, packed.card)
    assert np.allclose(packed.card.mean, mean, atol=1e-12) and np.allclose(packed.card.std, std, atol=1e-12)
    chosen = np.array([1, 4, 7])
    for got, expected in zip(
        mean_std(moment_sums(packed.moments[chosen])), brute_force(packed.images[chosen], packed.card), strict=True
    ):
        assert np.allclose(got, expected, atol=1e-12)
    packed.verify()


def test_statistics_leave_nodata_out(rasters: Callable[..., Path], tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    arrays = [random.integers(-50, 3000, (2, 16, 16)).astype(np.int16) for _ in range(6)]
    for i, array in enumerate(arrays):
        array[:, : 2 * i] = -9999
    packed = pack(
        rsssl.dataset("folder", str(rasters(arrays, nodata=-9999)), valid_range=[0, 2500]), tmp_path / "p", workers=1
    )
    assert packed.card.nodata == -9999 and packed.card.dtype == "int16"
    mean, std = brute_force(packed.images, packed.card)
    assert np.allclose(packed.card.mean, mean) and np.allclose(packed.card.std, std)
    assert min(mean) > 0.4  # with -9999 in it, it would be far below


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", None), ("uint8", 0), ("uint16", None), ("int16", -9999), ("float32", 5)]
)
def test_moments_are_those_of_each_band_alone_to_the_last_bit(dtype: str, nodata: float | None) -> None:
    """A fingerprint holds them: how many images are decoded, or bands worked on, together may not show."""
    images = np.random.default_rng(2).integers(0, 250, (5, 3, 24, 20)).astype(dtype)
    images[1, 2] = images[2, :, :9] = images[0, 0, 0, 0] if nodata is None else nodata
    form = Form(("a", "b", "c"), 3, (0, 1, 2), dtype, (24, 20), nodata, (0.0, 3.7, 10.0), (255.0, 201.3, 99.0))
    expected = np.empty((5, 3, 3))
    for i, b in np.ndindex(5, 3):
        values = images[i, b][images[i, b] != nodata] if nodata is not None else images[i, b].ravel()
        if dtype == "uint8":
            counts = np.bincount(values, minlength=256)
            unit = np.clip((np.arange(256) - form.low[b]) / (form.high[b] - form.low[b]), 0, 1)
            expected[i, b] = counts.sum(), counts @ unit, counts @ (unit * unit)
        else:
            unit = np.clip((values.astype(np.float64) - form.low[b]) / (form.high[b] - form.low[b]), 0, 1)
            expected[i, b] = unit.size, unit.sum(), unit @ unit
    for numbers in (1, 2 * 24 * 20, 1 << 16):
        assert np.array_equal(moments(images, form, numbers), expected)


def test_the_digest_is_the_files_in_whatever_order_its_chunks_come(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(7 * 3 * 8 * 8)
    (tmp_path / "images").write_bytes(content)
    form = Form(("a", "b", "c"), 3, (0, 1, 2), "uint8", (8, 8), None, (0.0,) * 3, (255.0,) * 3)
    digest = Digest(Plan(Files(""), form, str(tmp_path / "images"), ""))
    for start, stop in ((4, 6), (0, 2), (6, 7), (2, 4)):
        digest.add(start, stop)
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_disk_error_while_packing_is_not_lost(pictures: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:
    """The system reports a failed write to one fsync only, which may be the one in the background."""
    slow, sync, calls = chunks.conform, disk.sync, []

    def failing(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(disk, "sync", failing)
    monkeypatch.setattr(chunks, "conform", lambda *image: (time.sleep(0.03), slow(*image))[1])
    with pytest.raises(UserError, match="Input/output error"):
        pack(rsssl.dataset("folder", str(pictures())), tmp_path / "p", workers=1)
    assert calls == [tmp_path / "p" / "images.part"] and not (tmp_path / "p" / "card.json").exists()


def test_an_image_replaced_while_it_is_packed_is_named(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch
) -> None:
    root, whole = pictures(), chunks.conform
    late = root / "water" / "0003.png"

    def replacing(*image: Any) -> Any:
        Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(late)
        return whole(*image)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"water/0003\.png changed while .* type the same"),
    ):
        patch.setattr(chunks, "conform", replacing)
        pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1, progress=False)
    assert not (tmp_path / "p" / "card.json").exists()
    packed = pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1, progress=False)
    assert (packed.images[-1] == 9).all() and not (packed.images[0] == 9).all()


def test_a_dataset_of_large_tiles_is_not_held_in_memory(pictures: Callable[..., Path], monkeypatch) -> None:
    catalog = rsssl.dataset("folder", str(pictures(20))).catalog()
    assert len(find_form._sample(catalog, 3)) == 40
    monkeypatch.setattr(find_form, "SAMPLE_BYTES", 3 * 3 * 16 * 16)  # of three pictures
    assert len(find_form._sample(catalog, 3)) == 4


def test_processes_give_the_same_bytes_as_one(pictures: Callable[..., Path], tmp_path: Path) -> None:
    dataset, size = rsssl.dataset("folder", str(pictures(20))), 3 * 16 * 16 * 4
    one = pack(dataset, tmp_path / "one", workers=1, chunk_bytes=size)
    two = pack(dataset, tmp_path / "two", workers=2, chunk_bytes=size)
    assert one.sha256 == two.sha256 and one.fingerprint == two.fingerprint and one.card == two.card


def test_a_current_pack_is_opened_and_a_changed_source_packed_again(
    pictures: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures()
    first = pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1)
    stamp = (first.folder / "card.json").stat().st_mtime_ns
    again = pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1)
    assert (again.folder / "card.json").stat().st_mtime_ns == stamp
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "field" / "0000.png")
    with caplog.at_level(logging.WARNING):
        changed = pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1)
    assert "changed" in caplog.text and changed.fingerprint != first.fingerprint
    assert changed.images[0].max() == 0


def test_the_fingerprint_is_of_the_content_not_of_the_place(pictures: Callable[..., Path], tmp_path: Path) -> None:
    root = pictures()
    first = pack(rsssl.dataset("folder", str(root)), tmp_path / "a", workers=1)
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    moved = root.rename(tmp_path / "elsewhere")
    second = pack(rsssl.dataset("folder", str(moved)), tmp_path / "b", workers=1)
    assert first.fingerprint == second.fingerprint and first.source != second.source


def test_a_damaged_pack_is_not_opened(pictures: Callable[..., Path], tmp_path: Path) -> None:
    packed = pack(rsssl.dataset("folder", str(pictures())), tmp_path / "p", workers=1)
    images = packed.folder / "images.bin"
    content = bytearray(images.read_bytes())
    content[5] ^= 1
    images.write_bytes(content)
    with pytest.raises(UserError, match=r"checksum.*rm -r"):
        Pack.open(packed.folder).verify()
    images.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"damaged.*rm -r"):
        Pack.open(packed.folder)


def test_a_band_selection_in_its_own_order(rasters: Callable[..., Path], tmp_path: Path) -> None:
    array = np.stack([np.full((8, 8), v, np.uint16) for v in (10, 20, 30)])
    names = ["B02", "B03", "B04"]
    dataset = rsssl.dataset(
        "x", str(rasters([array, array + 1], names=names)), select=["B04", "B02"], valid_range=[[0, 100], [0, 50]]
    )
    packed = pack(dataset, tmp_path / "p", workers=1)
    assert packed.card.bands == ("B04", "B02") and packed.images[0, :, 0, 0].tolist() == [30, 10]
    assert packed.card.mean == pytest.approx([0.305, 0.21])


def test_images_of_other_sizes_are_resized_as_pillow_does(pictures: Callable[..., Path], tmp_path: Path) -> None:
    root = pictures(3)
    big = np.random.default_rng(3).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    Image.fromarray(big).save(root / "field" / "big.png")
    packed = pack(rsssl.dataset("folder", str(root)), tmp_path / "p", workers=1)
    assert packed.card.size == (16, 16) and packed.done == {"resized": 1}
    expected = np.asarray(Image.fromarray(big).resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    got = packed.images[packed.paths.index("field/big.png")].transpose(1, 2, 0).astype(int)
    assert np.abs(got - expected).max() <= 1  # Pillow rounds after each of its two passes, we once


def test_native_size_settles_mixed_sizes_and_size_settles_all(pictures: Callable[..., Path], tmp_path: Path) -> None:
    root = pictures(3)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(root / "field" / "big.png")
    assert pack(rsssl.dataset("x", str(root), native_size=20), tmp_path / "a", workers=1).card.size == (20, 20)
    assert pack(rsssl.dataset("x", str(root), native_size=20, size=12), tmp_path / "b", workers=1).card.size == (12, 12)


def test_resizing_does_not_smear_nodata() -> None:
    image = np.full((1, 32, 32), 1000, np.int16)
    image[0, :, :10] = -9999
    small = resize(image, (8, 8), nodata=-9999)
    assert set(np.unique(small)) == {-9999, 1000}
    assert (small[0, :, :2] == -9999).all() and (small[0, :, 4:] == 1000).all()


def test_killed_and_run_again_gives_the_same_pack(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """SIGKILL in the middle, then again: identical to a run that was left alone, and not all of it done twice."""
    root = pictures(150, size=32)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "import rsssl.data.chunks as chunks, rsssl.data.conform as conform\n"
        "import rsssl\n"
        "from rsssl.data.packing import pack\n"
        "read, n = chunks.conform, [0]\n"
        "def slow(*image):\n"
        "    n[0] += 1\n"
        "    time.sleep(float(sys.argv[3]))\n"
        "    return read(*image)\n"
        "chunks.conform = slow\n"
        "packed = pack(rsssl.dataset('folder', sys.argv[1]), sys.argv[2], workers=1, chunk_bytes=10 * 32 * 32 * 3)\n"
        "print(n[0], packed.sha256, packed.fingerprint)\n"
    )

    def command(folder: str, pause: str) -> list[str]:
        return [sys.executable, str(script), str(root), str(tmp_path / folder), pause]

    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(command("killed", "0.01"), env=env, stderr=subprocess.DEVNULL)
    journal = tmp_path / "killed" / "progress.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.is_file() and journal.read_text().count("\n") > 4):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "card.json").exists()
    with pytest.raises(FileNotFoundError):
        Pack.open(tmp_path / "killed")
    with open(journal, "a") as file:
        file.write('{"start": 290, "stop": 3')  # a line cut short
    records = [json.loads(line) for line in journal.read_text().split("\n")[1:-1]]
    with open(tmp_path / "killed" / "images.part", "r+b") as file:  # a chunk that never reached the disk
        file.seek(records[0]["start"] * 32 * 32 * 3)
        file.write(b"\0" * 100)
    redone, *resumed = subprocess.check_output(
        command("killed", "0"), env=env, text=True, stderr=subprocess.DEVNULL
    ).split()
    whole, *straight = subprocess.check_output(
        command("whole", "0"), env=env, text=True, stderr=subprocess.DEVNULL
    ).split()
    assert resumed == straight
    assert int(whole) == 300 and int(redone) == 300 - 10 * (len(records) - 1)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == WRITTEN


def test_a_dead_worker_is_made_up_for(pictures: Callable[..., Path], tmp_path: Path, monkeypatch, caplog) -> None:
    dataset, size = rsssl.dataset("folder", str(pictures(20))), 4 * 16 * 16 * 3
    expected = pack(dataset, tmp_path / "one", workers=1, chunk_bytes=size)
    monkeypatch.setattr("sys.executable", "/bin/false")
    packed = pack(dataset, tmp_path / "two", workers=2, chunk_bytes=size)
    assert packed.sha256 == expected.sha256 and "died" in caplog.text


def test_the_card_survives_json() -> None:
    card = SensorCard(
        "x", ("a", "b"), "int16", (0.0, -5.0), (1.0, 5.0), -9999.0, (0.1, 0.2), (0.3, 1.0), ("c",), (4, 6), 10.0
    )
    assert SensorCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    with pytest.raises(ValueError, match=r"unknown"):
        SensorCard.from_dict({**card.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("name", "option", "shape", "dtype", "classes"),
    [
        ("EuroSAT_MS", "eurosat_ms", (200, 13, 64, 64), "uint16", 10),
        ("EuroSAT_MS", "eurosat_msrgb", (200, 3, 64, 64), "uint16", 10),
        ("EuroSAT_MS", "folder", (200, 13, 64, 64), "uint16", 10),
        ("AID", "aid", (1800, 3, 150, 150), "uint8", 30),
        ("NWPU_RESISC45", "nwpu_resisc45", (700, 3, 256, 256), "uint8", 14),
        ("NWPU_RESISC45", "folder", (700, 3, 256, 256), "uint8", 14),
    ],
)
def test_the_real_folders_pack(
    shared_data: Path, tmp_path: Path, name: str, option: str, shape: tuple[int, ...], dtype: str, classes: int
) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "dataset" / f"{option}.yaml")
    config.root = None  # an interpolation of the whole configuration
    fields: Any = OmegaConf.to_container(config)
    del fields["_target_"], fields["root"]
    packed = pack(rsssl.dataset(root=str(shared_data / name), **fields), tmp_path / "p", workers=2, progress=False)
    assert packed.images.shape == shape and packed.card.dtype == dtype and len(packed.card.classes) == classes
    assert not packed.skipped
    mean, std = brute_force(packed.images[::7], packed.card)
    rows = np.arange(0, len(packed), 7)
    assert np.allclose(mean_std(moment_sums(packed.moments[rows])), (mean, std), atol=1e-9)


def test_scenes_of_many_shapes_are_refused_with_a_way_out(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("osgeo.gdal")
    with pytest.raises(UserError) as error:
        pack(rsssl.dataset("folder", str(shared_data / "scenes")), tmp_path / "p", workers=1)
    assert "dataset." in str(error.value)


def test_a_range_for_each_band_of_the_files_goes_with_the_bands_selected(
    rasters: Callable[..., Path], tmp_path: Path
) -> None:
    """The cards of published datasets have one; whoever selects bands need not type it again."""
    ranges = [[0, 10], [0, 20], [0, 30]]
    root = rasters([np.full((3, 16, 16), 5, np.uint16)])
    dataset = rsssl.dataset("t", str(root), classes=[], bands=["a", "b", "c"], select=["c", "a"], valid_range=ranges)
    card = pack(dataset, tmp_path / "pack", progress=False).card
    assert (card.bands, card.high) == (("c", "a"), (30.0, 10.0))
