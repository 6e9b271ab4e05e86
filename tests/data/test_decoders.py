"""Files that are not what their name says, name others, or never end: refused by name, and nothing else opened."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import rsssl
from rsssl.data import raster
from rsssl.data.decoders import BadImage
from rsssl.data.locate import located
from rsssl.data.packing import pack
from rsssl.data.raster import read, write_geotiff
from rsssl.data.scan import rasters_below
from rsssl.data.scene_file import SceneFile
from rsssl.errors import UserError

VRT = (
    '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativetoVRT="0">{secret}</SourceFilename></VRTRasterBand></VRTDataset>'
)


@pytest.fixture
def gdal() -> Any:
    gdal = pytest.importorskip("osgeo.gdal")
    gdal.UseExceptions()
    return gdal


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no image has any business with."""
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(256)))
    return path


def pointers(gdal: Any, folder: Path, secret: Path) -> list[Path]:
    """Three files that make pixels of the secret."""
    (folder / "a.vrt").write_text(VRT.format(secret=secret))
    gdal.GetDriverByName("ERS").Create(str(folder / "b.ers"), 16, 16, 1, gdal.GDT_Byte)
    text = (folder / "b.ers").read_text()
    (folder / "b.ers").write_text(text.replace("DataSetType", f'DataFile = "../{secret.name}"\n\tDataSetType'))
    made = gdal.GetDriverByName("PCIDSK").Create(str(folder / "c.pix"), 16, 16, 1, gdal.GDT_Byte, ["INTERLEAVING=FILE"])
    made.WriteRaster(0, 0, 16, 16, bytes(256))
    del made
    content = (folder / "c.pix").read_bytes()
    at = content.index(b"c.001")
    (folder / "c.pix").write_bytes(content[:at] + f"../{secret.name}".encode().ljust(64) + content[at + 64 :])
    return [folder / name for name in ("a.vrt", "b.ers", "c.pix")]


@pytest.mark.parametrize("name", ["a.tif", "a.jp2", "a.img", "a.bil", "a.ntf", "a.png", "a", "a.dat"])
def test_a_vrt_under_another_name_reads_no_other_file(gdal: Any, tmp_path: Path, secret: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(VRT.format(secret=secret))
    with pytest.raises(BadImage, match="not an image of the kind that its name says"):
        read(path)
    if path.suffix not in ("", ".dat"):  # of others GDAL decides, where somebody types them as a scene
        with pytest.raises(UserError, match="cannot be opened"):
            SceneFile(path)


def test_a_tile_that_names_other_files_is_refused_and_a_scene_that_is_typed_is_not(
    gdal: Any, tmp_path: Path, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiles").mkdir()
    for path in pointers(gdal, tmp_path / "tiles", secret):
        assert bytes(gdal.Open(str(path)).ReadRaster()) == secret.read_bytes()  # what it would have given
        with pytest.raises(BadImage, match=r"lie in other files.*dataset\.scenes="):
            read(path)
        with pytest.raises(UserError, match="lie in other files"):
            located(str(path))
        assert SceneFile(path).size == (16, 16)
    write_geotiff(tmp_path / "tiles" / "good.tif", np.zeros((1, 16, 16), np.uint8))
    with pytest.raises(UserError, match=r"a\.vrt cannot be used.*on_error=skip"):
        pack(rsssl.dataset("folder", tmp_path / "tiles"), tmp_path / "pack", workers=1, progress=False)
    assert rasters_below(tmp_path / "tiles") == [tmp_path / "tiles" / "good.tif"]
    assert "a.vrt names other files" in caplog.text and "3 such files" in caplog.text


def test_a_name_that_means_something_to_gdal_is_a_name(gdal: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("x.tif", 1), ("GTIFF_DIR:1:x.tif", 2)):
        write_geotiff(name, np.full((1, 16, 16), value, np.uint8))
    scene = SceneFile("GTIFF_DIR:1:x.tif")
    scene.use([1])
    assert read("GTIFF_DIR:1:x.tif").pixels.max() == 2 == scene.part(0, 0, 1, 1).values.max()


def test_overviews_that_lie_elsewhere_are_not_fetched(gdal: Any, tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.zeros((1, 16, 16), np.uint8))
    told = '<MDI key="OVERVIEW_FILE">/vsicurl/http://127.0.0.1:9/a.tif</MDI>'
    (tmp_path / "a.tif.aux.xml").write_text(f'<PAMDataset><Metadata domain="OVERVIEWS">{told}</Metadata></PAMDataset>')
    with pytest.raises(UserError, match=r"overviews from /vsicurl.*remove .*a\.tif\.aux\.xml"):
        SceneFile(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif").pixels.shape == (1, 16, 16)  # tiles are never thinned out


def test_postscript_named_jpg_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    (tmp_path / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(BadImage, match="not an image of the kind that its name says"):
        read(tmp_path / "a.jpg")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "JPEG"])
def test_a_picture_may_have_the_suffix_of_another_kind(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "a.jpg", kind)
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "a.png", kind)
    for name in ("a.jpg", "a.png"):
        assert np.abs(read(tmp_path / name, 3).pixels[:, 5, 5].astype(int) - [255, 0, 0]).max() <= 2


def test_numbers_that_a_picture_cannot_hold_are_not_cut(tmp_path: Path) -> None:
    """A TIFF of 32 bits and a PPM of 16, which Pillow would read whatever their name."""
    Image.fromarray(np.full((16, 16), 66508, np.int32)).save(tmp_path / "int32.png", "TIFF")
    (tmp_path / "ppm.png").write_bytes(b"P6 16 16 65535\n" + np.full((16, 16, 3), 1000, ">u2").tobytes())
    for name in ("int32.png", "ppm.png"):
        with pytest.raises(BadImage, match="not an image of the kind that its name says"):
            read(tmp_path / name)


def test_of_an_animation_the_first_picture_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read(tmp_path / "a.gif", 3).pixels[:, 0, 0].tolist() == [255, 0, 0]


def header_only(size: int) -> bytes:
    """A PNG that says it is that large, and holds no pixel."""
    head = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\1IDAT"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.img"])
def test_a_scene_among_tiles_is_refused_by_its_header(gdal: Any, tmp_path: Path, name: str) -> None:
    if name == "a.png":
        (tmp_path / name).write_bytes(header_only(6000))
    else:
        driver = gdal.GetDriverByName("GTiff" if name == "a.tif" else "HFA")
        driver.Create(str(tmp_path / name), 30000, 30000, 3, gdal.GDT_Byte, ["SPARSE_OK=TRUE"] * (name == "a.tif"))
    megabytes = {"a.png": 108}.get(name, 2700)
    with pytest.raises(BadImage, match=rf"{megabytes} MB, .*at most 80.*dataset=scene dataset\.scenes=.*{name}"):
        read(tmp_path / name)


def test_a_pipe_is_named_and_nothing_waits_for_it(gdal: Any, tmp_path: Path) -> None:
    for name in ("a.tif", "b.png", "c.jp2"):
        os.mkfifo(tmp_path / name)
    write_geotiff(tmp_path / "d.tif", np.zeros((1, 16, 16), np.uint8))
    os.mkfifo(tmp_path / "d.tif.aux.xml")
    code = (
        "import sys, rsssl\nfrom rsssl.data.packing import pack\nfrom rsssl.data.raster import BadImage, read\n"
        "from rsssl.data.scene_file import SceneFile\nfrom rsssl.errors import UserError\n"
        "for name in sys.argv[1:]:\n"
        "    for use in (read, SceneFile):\n"
        "        try:\n            use(name)\n"
        "        except (BadImage, UserError) as error:\n            print(use.__name__, error)\n"
        "try:\n    pack(rsssl.dataset('folder', '.'), 'pack', workers=1, progress=False)\n"
        "except UserError as error:\n    print('pack', error)\n"
    )
    command = [sys.executable, "-c", code, "a.tif", "b.png", "c.jp2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    text = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True, timeout=30)
    for name in ("a.tif", "b.png", "c.jp2"):
        assert f"read {name}: not a file but a pipe, socket or device" in text
        assert f"SceneFile {name} is a pipe, a socket or a device: type the name of a file" in text
    assert "d.tif.aux.xml: not a file but a pipe" in text or "a.tif: not a file but a pipe" in text
    assert "pack " in text and "pipe" in text.split("pack ")[1]
    with pytest.raises(BadImage, match="not a file but a folder"):
        (tmp_path / "e.tif").mkdir()
        read(tmp_path / "e.tif")


def test_bands_of_different_types_are_not_read_as_one(gdal: Any, tmp_path: Path) -> None:
    mixed = gdal.GetDriverByName("VRT").Create(str(tmp_path / "a.vrt"), 16, 16, 0)
    for kind in (gdal.GDT_Byte, gdal.GDT_UInt16, gdal.GDT_Float32):
        mixed.AddBand(kind)
    with pytest.raises(BadImage, match=r"its bands are Byte and Float32 and UInt16: .*gdal_translate -ot Float32"):
        raster._whole(tmp_path / "a.vrt", gdal, mixed)


def test_signed_bytes_are_not_read_as_unsigned(gdal: Any, tmp_path: Path) -> None:
    """GDAL from 3.7 on has a type for them; before, a note beside the type of unsigned ones."""
    kind, options = (gdal.GDT_Int8, []) if hasattr(gdal, "GDT_Int8") else (gdal.GDT_Byte, ["PIXELTYPE=SIGNEDBYTE"])
    target = gdal.GetDriverByName("GTiff").Create(str(tmp_path / "a.tif"), 16, 16, 1, kind, options)
    target.WriteRaster(0, 0, 16, 16, bytes([253]) * 256)
    target = None
    with pytest.raises(BadImage, match="pixels of type Int8"):
        read(tmp_path / "a.tif")
    scene = SceneFile(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"pixels of type Int8.*gdal_translate"):
        scene.use([1])


def test_nodata_that_differs_from_band_to_band_is_not_read_as_one(gdal: Any, tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.zeros((2, 16, 16), np.uint8), nodata=7)
    source = gdal.Open(str(tmp_path / "a.tif"))
    source.GetRasterBand(2).SetNoDataValue(9)  # into the file beside it
    source = None
    with pytest.raises(BadImage, match=r"its bands have the nodata 7\.0 and 9\.0: .*gdal_edit\.py -a_nodata"):
        read(tmp_path / "a.tif")
