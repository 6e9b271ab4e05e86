"""Every kind of bad input that we know of: named, counted, and never silently replaced."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsssl.data.dataset import Dataset
from rsssl.data.pack import Pack, pack
from rsssl.data.raster import write_geotiff
from rsssl.data.split import labelled_subset, split
from rsssl.errors import UserError

random = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of six good 32x32 RGB JPEGs."""
    folder = tmp_path / "images"
    for name in ("field", "water"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name / f"{i}.jpg")
    return folder


def packed(root: Path, **fields: object) -> Pack:
    return pack(Dataset("folder", root=str(root), **fields), root.parent / "pack", workers=1)  # type: ignore[arg-type]


def tiff_folder(tmp_path: Path, arrays: list[np.ndarray], nodata: float | None = None) -> Path:
    folder = tmp_path / "tiffs" / "one"
    folder.mkdir(parents=True)
    for i, array in enumerate(arrays):
        write_geotiff(folder / f"{i}.tif", array, nodata=nodata)
    return folder.parent


def refused_then_skipped(root: Path, name: str, reason: str, good: int = 12) -> None:
    """By default the run stops and names the file; with on_error=skip the file is left out, counted and listed."""
    with pytest.raises(UserError, match=reason) as error:
        packed(root)
    assert name in str(error.value) and "dataset.on_error=skip" in str(error.value)
    kept = packed(root, on_error="skip")
    assert len(kept) == good == len(kept.labels) == len(kept.images) and list(kept.skipped) == [name]
    with pytest.raises(UserError, match=reason):  # the skip of another run is not taken for consent
        packed(root)
    for path, image in zip(kept.paths, kept.images, strict=True):  # none has moved into another's place
        if path.endswith("jpg"):
            assert np.array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(root / path).convert("RGB")))


def test_truncated_jpeg(root: Path) -> None:
    data = (root / "field" / "0.jpg").read_bytes()
    (root / "field" / "bad.jpg").write_bytes(data[: len(data) // 2])
    refused_then_skipped(root, "field/bad.jpg", "cut short")


def test_zero_byte_file(root: Path) -> None:
    (root / "field" / "bad.jpg").write_bytes(b"")
    refused_then_skipped(root, "field/bad.jpg", "0 bytes")


def test_text_renamed_jpg(root: Path) -> None:
    (root / "water" / "bad.jpg").write_text("<html>404 not found</html>")
    refused_then_skipped(root, "water/bad.jpg", "not an image")


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (7, 7), (10, 90)])
def test_sizes_that_make_no_sense(root: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "field" / "bad.png")
    refused_then_skipped(root, "field/bad.png", f"{size[0]}x{size[1]} px is too")


def test_16_bit_among_8_bit(root: Path) -> None:
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(root / "field" / "bad.png")
    refused_then_skipped(root, "field/bad.png", "uint16, those of the dataset uint8")


def test_a_tif_with_another_number_of_bands(root: Path) -> None:
    write_geotiff(root / "water" / "bad.tif", np.zeros((5, 32, 32), np.uint8))
    refused_then_skipped(root, "water/bad.tif", "5 bands, expected 3")


@pytest.mark.parametrize(("mode", "what"), [("L", "grey"), ("P", "palette"), ("CMYK", "CMYK"), ("RGBA", "alpha")])
def test_other_8_bit_modes_among_rgb_are_converted_and_counted(
    root: Path, mode: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).convert(mode)
    name = "field/odd.jpg" if mode in ("CMYK", "L") else "field/odd.png"
    picture.save(root / name)
    whole = packed(root)
    assert len(whole) == 13 and whole.done == {what: 1} and not whole.skipped
    expected = np.asarray(Image.open(root / name).convert("RGB"))
    assert np.array_equal(whole.images[whole.paths.index(name)].transpose(1, 2, 0), expected)
    assert what.lower() in caplog.text.lower()


def test_nan_and_infinity_are_nodata(tmp_path: Path) -> None:
    arrays = [random.random((2, 16, 16)).astype(np.float32) for _ in range(4)]
    arrays[1][0, :5] = np.nan
    arrays[2][1, 3, 3] = np.inf
    arrays[3][:] = np.nan
    whole = packed(tiff_folder(tmp_path, arrays), valid_range=[0, 1])
    stored = np.array(whole.images)
    assert np.isfinite(stored).all() and whole.card.dtype == "float32"
    assert (stored[1, 0, :5] == np.float32(whole.card.nodata)).all() and (stored[3] == np.float32(whole.card.nodata)).all()
    good = np.stack(arrays).transpose(1, 0, 2, 3).reshape(2, -1)
    for band in range(2):
        values = good[band][np.isfinite(good[band])].astype(np.float64)
        assert whole.card.mean[band] == pytest.approx(values.mean()) and whole.card.std[band] == pytest.approx(values.std())


def test_declared_nodata_is_one_value_in_the_pack(tmp_path: Path) -> None:
    folder = tiff_folder(tmp_path, [random.integers(1, 99, (1, 16, 16)).astype(np.int16) for _ in range(4)], nodata=-9999)
    other = random.integers(1, 99, (1, 16, 16)).astype(np.int16)
    other[0, 0] = -1
    write_geotiff(folder / "one" / "other.tif", other, nodata=-1)
    whole = packed(folder, valid_range=[0, 100])
    row = whole.images[whole.paths.index("one/other.tif")][0]
    assert (row[0] == -9999).all() and np.array_equal(row[1:], other[0, 1:])


def test_nodata_nobody_else_declares(tmp_path: Path) -> None:
    folder = tiff_folder(tmp_path, [random.integers(1, 99, (1, 16, 16)).astype(np.uint16) for _ in range(200)])
    from rsssl.rng import permutation

    unseen = int(permutation(0, 201)[-1])  # not among the sampled files
    name = f"one/{unseen}.tif"
    paths = sorted([f"one/{i}.tif" for i in range(200)] + ["one/zz.tif"])
    odd = random.integers(1, 99, (1, 16, 16)).astype(np.uint16)
    odd[0, 0, 0] = 0
    write_geotiff(folder / paths[unseen], odd, nodata=0)
    if name != "one/zz.tif" and not (folder / "one/zz.tif").exists():
        write_geotiff(folder / "one/zz.tif", odd + 1)
    with pytest.raises(UserError, match=r"declares nodata 0.*dataset.nodata=0"):
        packed(folder, valid_range=[0, 100])
    assert packed(folder, valid_range=[0, 100], nodata=0).card.nodata == 0


def test_a_band_of_zeros(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = [np.stack([random.integers(0, 255, (16, 16)), np.zeros((16, 16))]).astype(np.uint8) for _ in range(4)]
    whole = packed(tiff_folder(tmp_path, arrays))
    assert whole.card.std[1] == 1.0 and whole.card.mean[1] == 0.0 and 0 < whole.card.std[0] < 1
    assert "band2 is constant" in caplog.text


def test_a_16_bit_band_of_zeros_has_a_range_all_the_same(tmp_path: Path) -> None:
    arrays = [np.stack([random.integers(0, 9999, (16, 16)), np.zeros((16, 16))]).astype(np.uint16) for _ in range(4)]
    card = packed(tiff_folder(tmp_path, arrays)).card
    assert card.high[1] > card.low[1] and card.mean[1] == 0 and card.std[1] == 1


def test_an_empty_class_folder(root: Path) -> None:
    (root / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing holds no image.*rmdir"):
        packed(root)


def test_nothing_usable_at_all(tmp_path: Path) -> None:
    (tmp_path / "x" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "x" / "a" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"None of .* 3 images.*0 bytes"):
        packed(tmp_path / "x", on_error="skip")


def test_more_labels_than_a_class_has(root: Path) -> None:
    (root / "field" / "0.jpg").unlink()
    whole = packed(root)
    pool = split(whole.paths, whole.labels, 0).pool
    with pytest.raises(UserError, match=r"class field has 4 in the pool.*Type at most ts=4"):
        labelled_subset(whole.labels, whole.paths, pool, 5, 0)


def test_bands_of_another_dataset(root: Path) -> None:
    with pytest.raises(UserError, match=r"have 3 bands.*expects 2.*dataset=folder"):
        packed(root, bands=["a", "b"])


def test_a_place_below_a_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*paths\.store="):
        pack(Dataset("folder", str(root)), tmp_path / "file" / "pack", workers=1)


RUN = """
import os, resource, sys
from rsssl.data.dataset import Dataset
from rsssl.data.pack import pack
from rsssl.errors import UserError
{before}
try:
    pack(Dataset("folder", sys.argv[1]), sys.argv[2], workers={workers}, progress=False)
except UserError as error:
    print(error)
    sys.exit(3)
"""


def run(root: Path, folder: Path, before: str = "", workers: int = 1) -> subprocess.CompletedProcess[str]:
    code = RUN.format(before=before, workers=workers)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.run([sys.executable, "-c", code, str(root), str(folder)], env=env, capture_output=True, text=True)


def test_no_write_permission(root: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):  # somebody else has to get as far as here
        if folder.stat().st_uid == os.geteuid() and os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    before = "from rsssl.data import conform, chunks, pack as _; import PIL.Image, tqdm; PIL.Image.init()\n"
    before += "if os.geteuid() == 0: os.seteuid(65534)"
    result = run(root, locked / "pack", before)
    assert result.returncode == 3, result.stderr
    assert "Permission denied" in result.stdout and str(locked / "pack") in result.stdout and "paths.store=" in result.stdout


def big_root(tmp_path: Path) -> Path:
    folder = tmp_path / "many" / "one"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.fromarray(random.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder.parent


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    root, target = big_root(tmp_path), tmp_path / "pack"
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    result = run(root, target, limit)
    assert result.returncode == 3, result.stderr
    assert f"No room for the pack in {target}: it takes 2.0 MB" in result.stdout and "paths.store=" in result.stdout
    assert list(target.iterdir()) == []
    assert run(root, target).returncode == 0 and len(Pack.open(target)) == 40


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB, where mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    libc.umount(str(place).encode())


@pytest.mark.parametrize("ballast", [2_000_000, 1_000_000])
def test_a_full_disk(tmp_path: Path, tiny_disk: Path, ballast: int) -> None:
    """Full at once, and full only at the end, when the images fit and what comes after them does not."""
    root = big_root(tmp_path)
    (tiny_disk / "ballast").write_bytes(b"\1" * ballast)
    if ballast == 1_000_000:  # the images take 1,966,080 bytes of the 3,145,728
        (tiny_disk / "more").write_bytes(b"\1" * 163_840)
    result = run(root, tiny_disk / "pack")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "No room for the pack" in result.stdout and "MB are free" in result.stdout
    assert not (tiny_disk / "pack" / "card.json").exists()
    (tiny_disk / "ballast").unlink()
    assert run(root, tiny_disk / "pack").returncode == 0
    Pack.open(tiny_disk / "pack").verify()


def test_a_disk_that_fills_up_while_workers_write(tmp_path: Path) -> None:
    """A file system that does not keep the space it promised: the workers' error reaches the user."""
    root, target = big_root(tmp_path), tmp_path / "pack"
    before = (
        "import rsssl.data.chunks as c, rsssl.data.pack as p\n"
        "c.CHUNK_BYTES = 200_000\n"
        "p._allocate = lambda path, size: open(path, 'wb').close()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    )
    result = run(root, target, before, workers=2)
    assert result.returncode == 3, result.stderr
    assert "No room for the pack" in result.stdout
