"""Images that are damaged, odd or empty of information: named, counted, and never silently replaced."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsssl.augment import prepare
from rsssl.data.pack import Pack
from rsssl.data.raster import BadImage, read, write_geotiff
from rsssl.errors import UserError
from rsssl.jobs import configured
from rsssl.models.preprocess import Preprocess, as_it_is
from rsssl.models.statistics import band_statistics
from rsssl.rng import permutation

Packed = Callable[..., Pack]
Tiffs = Callable[..., Path]


def refused_then_skipped(packed: Packed, root: Path, name: str, reason: str, good: int = 12) -> None:
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


def test_truncated_jpeg(packed: Packed, root: Path) -> None:
    data = (root / "field" / "0.jpg").read_bytes()
    (root / "field" / "bad.jpg").write_bytes(data[: len(data) // 2])
    refused_then_skipped(packed, root, "field/bad.jpg", "cut short")


def test_zero_byte_file(packed: Packed, root: Path) -> None:
    (root / "field" / "bad.jpg").write_bytes(b"")
    refused_then_skipped(packed, root, "field/bad.jpg", "0 bytes")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_text_renamed_to_an_image(packed: Packed, root: Path, suffix: str) -> None:
    (root / "water" / f"bad.{suffix}").write_text("<html>404 not found</html>")
    refused_then_skipped(packed, root, f"water/bad.{suffix}", "not an image")


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (7, 7), (10, 90)])
def test_sizes_that_make_no_sense(packed: Packed, root: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "field" / "bad.png")
    refused_then_skipped(packed, root, "field/bad.png", f"{size[0]}x{size[1]} px is too")


def test_16_bit_among_8_bit(packed: Packed, root: Path) -> None:
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(root / "field" / "bad.png")
    refused_then_skipped(packed, root, "field/bad.png", "uint16, those of the dataset uint8")


def png_of_16_bit_rgb(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as a PNG, which Pillow cannot write and reads as 8-bit."""
    h, w, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def test_16_bit_rgb_keeps_its_bits_or_is_refused(packed: Packed, root: Path, random: np.random.Generator) -> None:
    pytest.importorskip("osgeo.gdal")
    pixels = random.integers(0, 65536, (32, 32, 3), dtype=np.uint16)
    (root / "field" / "bad.png").write_bytes(png_of_16_bit_rgb(pixels))
    assert np.array_equal(read(root / "field" / "bad.png", 3).pixels.transpose(1, 2, 0), pixels)
    refused_then_skipped(packed, root, "field/bad.png", "uint16, those of the dataset uint8")


@pytest.mark.parametrize("bands", [1, 4, 5])
def test_a_tif_with_another_number_of_bands(packed: Packed, root: Path, bands: int) -> None:
    write_geotiff(root / "water" / "bad.tif", np.zeros((bands, 32, 32), np.uint8))
    refused_then_skipped(packed, root, "water/bad.tif", f"{bands} bands, expected 3")


@pytest.mark.parametrize(
    ("mode", "what"),
    [("L", "grey"), ("1", "grey"), ("LA", "grey"), ("P", "palette"), ("CMYK", "CMYK"), ("RGBA", "alpha")],
)
def test_other_8_bit_modes_among_rgb_are_converted_and_counted(
    packed: Packed, root: Path, random: np.random.Generator, mode: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).convert(mode)
    name = "field/odd.jpg" if mode in ("CMYK", "L") else "field/odd.png"
    picture.save(root / name)
    whole = packed(root)
    assert len(whole) == 13 and whole.done == {what: 1} and not whole.skipped
    expected = np.asarray(Image.open(root / name).convert("RGB"))
    assert np.array_equal(whole.images[whole.paths.index(name)].transpose(1, 2, 0), expected)
    assert what.lower() in caplog.text.lower()


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp", "gif", "tif", "raw.tif"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, random: np.random.Generator, kind: str) -> None:
    """What a decoder makes up for the missing rest never gets through."""
    path = tmp_path / f"a.{kind}"
    pixels = random.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    if kind.endswith("tif"):
        write_geotiff(path, pixels.transpose(2, 0, 1), compress=None if "raw" in kind else "deflate")
    else:
        Image.fromarray(pixels).save(path)
    data, whole = path.read_bytes(), read(path, 3).pixels
    refused = 0
    for cut in sorted({*range(0, len(data), 1 + len(data) // 40), *range(len(data) - 8, len(data))}):
        path.write_bytes(data[:cut])
        try:
            got = read(path, 3).pixels
        except BadImage:
            refused += 1
        else:
            assert np.array_equal(got, whole), f"cut at {cut} of {len(data)}"
    assert refused >= 40


def test_nan_and_infinity_are_nodata(packed: Packed, tiffs: Tiffs, random: np.random.Generator) -> None:
    arrays = [random.random((2, 16, 16)).astype(np.float32) for _ in range(4)]
    arrays[1][0, :5] = np.nan
    arrays[2][1, 3, 3] = np.inf
    arrays[3][:] = np.nan
    whole = packed(tiffs(arrays), valid_range=[0, 1])
    stored = np.array(whole.images)
    assert np.isfinite(stored).all() and whole.card.dtype == "float32"
    assert (stored[1, 0, :5] == np.float32(whole.card.nodata)).all() and (
        stored[3] == np.float32(whole.card.nodata)
    ).all()
    good = np.stack(arrays).transpose(1, 0, 2, 3).reshape(2, -1)
    for band in range(2):
        values = good[band][np.isfinite(good[band])].astype(np.float64)
        assert whole.card.mean[band] == pytest.approx(values.mean()) and whole.card.std[band] == pytest.approx(
            values.std()
        )


def test_declared_nodata_is_one_value_in_the_pack(packed: Packed, tiffs: Tiffs, random: np.random.Generator) -> None:
    folder = tiffs([random.integers(1, 99, (1, 16, 16)).astype(np.int16) for _ in range(4)], nodata=-9999)
    other = random.integers(1, 99, (1, 16, 16)).astype(np.int16)
    other[0, 0] = -1
    write_geotiff(folder / "one" / "other.tif", other, nodata=-1)
    whole = packed(folder, valid_range=[0, 100])
    row = whole.images[whole.paths.index("one/other.tif")][0]
    assert (row[0] == -9999).all() and np.array_equal(row[1:], other[0, 1:])


def test_nodata_nobody_else_declares(packed: Packed, tiffs: Tiffs, random: np.random.Generator) -> None:
    folder = tiffs([random.integers(1, 99, (1, 16, 16)).astype(np.uint16) for _ in range(200)])
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


def test_a_band_of_zeros(
    packed: Packed, tiffs: Tiffs, random: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = [np.stack([random.integers(0, 255, (16, 16)), np.zeros((16, 16))]).astype(np.uint8) for _ in range(4)]
    whole = packed(tiffs(arrays))
    assert whole.card.std[1] == 1.0 and whole.card.mean[1] == 0.0 and 0 < whole.card.std[0] < 1
    assert "band2 is constant" in caplog.text


def test_a_16_bit_band_of_zeros_has_a_range_all_the_same(
    packed: Packed, tiffs: Tiffs, random: np.random.Generator
) -> None:
    arrays = [np.stack([random.integers(0, 9999, (16, 16)), np.zeros((16, 16))]).astype(np.uint16) for _ in range(4)]
    card = packed(tiffs(arrays)).card
    assert card.high[1] > card.low[1] and card.mean[1] == 0 and card.std[1] == 1


def test_images_without_any_contrast_divide_by_nothing(packed: Packed, tiffs: Tiffs) -> None:
    """The std of every band is 0, of each image and of all: one grey, through pack, network's input and statistics."""
    whole = packed(tiffs([np.full((3, 16, 16), 51, np.uint8)] * 4))
    assert whole.card.std == (1.0,) * 3 and whole.card.mean == pytest.approx((0.2,) * 3)
    stored = np.array(whole.images)
    assert (
        prepare(torch.from_numpy(stored), Preprocess(whole.card, 24, whole.card.mean, whole.card.std)).abs().max()
        < 1e-6
    )
    features = band_statistics(prepare(torch.from_numpy(stored), as_it_is(whole.card)))
    assert bool(torch.isfinite(features).all())
    probe = configured("evaluate", "ridge").fit(features, torch.tensor([0, 0, 1, 1]), 2, seed=0)
    assert probe.scores(features).tolist() == [[0.5, 0.5]] * 4  # nothing to tell them by


def test_nothing_usable_at_all(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "x" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "x" / "a" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"None of .* 3 images.*0 bytes"):
        packed(tmp_path / "x", on_error="skip")


def test_bands_of_another_dataset(packed: Packed, root: Path) -> None:
    with pytest.raises(UserError, match=r"have 3 bands.*expects 2.*dataset=folder"):
        packed(root, bands=["a", "b"])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_flipped_bytes_are_a_bad_image_or_an_image(tmp_path: Path, random: np.random.Generator, suffix: str) -> None:
    """Whatever a decoder says to nonsense in a header, the caller sees one kind of error."""
    path, buffer = tmp_path / f"a.{suffix}", io.BytesIO()
    pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, {"jpg": "jpeg", "png": "png", "tif": "tiff"}[suffix])
    refused = 0
    for _ in range(120):
        data = bytearray(buffer.getvalue())
        for at in [*random.integers(0, min(len(data), 200), 2).tolist(), int(random.integers(len(data)))]:
            data[at] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        try:
            assert read(path, 3).pixels.ndim == 3
        except BadImage:
            refused += 1
    assert refused > 10
