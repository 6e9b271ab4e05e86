"""Files of points and polygons, and class rasters, that are not what their name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsssl.data.raster import type_of
from rsssl.errors import UserError
from rsssl.geo.class_map import ClassMap
from rsssl.geo.vectors import VectorFile

gdal = pytest.importorskip("osgeo.gdal")


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp", "csv", "fgb"])
def test_points_that_name_another_file_do_not_read_it(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "other.csv").write_text("lon,lat,class\n1,2,a\n")
    layer = f'<OGRVRTLayer name="other"><SrcDataSource>{tmp_path}/other.csv</SrcDataSource></OGRVRTLayer>'
    for name in (f"labels.{suffix}", "typed.vrt"):
        (tmp_path / name).write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    with pytest.raises(UserError, match=rf"labels\.{suffix} (cannot be opened|has no field|does not say)"):
        VectorFile(str(tmp_path / f"labels.{suffix}"))
    assert VectorFile(str(tmp_path / "typed.vrt")).field == "class"


def test_a_class_map_of_signed_bytes_is_not_read_as_unsigned(tmp_path: Path) -> None:
    new = hasattr(gdal, "GDT_Int8")
    kind, options = (gdal.GDT_Int8, []) if new else (gdal.GDT_Byte, ["PIXELTYPE=SIGNEDBYTE"])
    made = gdal.GetDriverByName("GTiff").Create(str(tmp_path / "a.tif"), 16, 16, 1, kind, options)
    made.WriteRaster(0, 0, 16, 16, bytes([253]) * 256)
    assert type_of(gdal, made.GetRasterBand(1)) == "Int8"
    del made
    if new:
        assert ClassMap(tmp_path / "a.tif").values.tolist() == [-3]
    else:
        with pytest.raises(UserError, match=r"a\.tif holds signed bytes"):
            ClassMap(tmp_path / "a.tif")
