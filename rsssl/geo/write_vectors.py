"""Points and polygons into a GeoPackage, whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsssl.data.raster import import_gdal
from rsssl.engine.files import explain_os_error
from rsssl.errors import UserError


class Drawn(NamedTuple):
    """A feature to be written.

    Args:
        geometry: an ogr.Geometry, or (x, y) of a point.
        values: of its fields by name; None for an empty one.
    """

    geometry: Any
    values: Mapping[str, str | float | int | None]


def write_features(path: Path, layer: str, projection: str, features: Sequence[Drawn]) -> None:
    """Writes a GeoPackage of one layer.

    Args:
        path: the file; an older one of that name stays until it is replaced.
        layer: its name.
        projection: WKT of the CRS of the coordinates, "" for none.
        features: with the same fields each, of which the first one tells the types; an empty one is text.

    Raises:
        UserError: when it cannot be written.
    """
    ogr, osr = import_gdal(str(path), "ogr"), import_gdal(str(path), "osr")
    work = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.gpkg")
    kinds = {str: ogr.OFTString, float: ogr.OFTReal, int: ogr.OFTInteger64, type(None): ogr.OFTString}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        source = ogr.GetDriverByName("GPKG").CreateDataSource(str(work))
        srs = osr.SpatialReference(wkt=projection) if projection else None
        written = source.CreateLayer(layer, srs, ogr.wkbUnknown)
        for name, value in features[0].values.items():
            written.CreateField(ogr.FieldDefn(name, kinds[type(value)]))
        written.StartTransaction()
        for drawn in features:
            row = ogr.Feature(written.GetLayerDefn())
            for name, value in drawn.values.items():
                if value is not None:
                    row.SetField(name, value)
            row.SetGeometry(drawn.geometry if hasattr(drawn.geometry, "GetGeometryName") else _point(*drawn.geometry))
            written.CreateFeature(row)
        written.CommitTransaction()
        del row, written, source  # which closes the file
        os.replace(work, path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written ({error}): type out= with another name") from error
    finally:
        for left in (work, Path(f"{work}-journal"), Path(f"{work}-wal"), Path(f"{work}-shm")):
            left.unlink(missing_ok=True)


def _point(x: float, y: float) -> Any:
    point = import_gdal("a point", "ogr").Geometry(import_gdal("a point", "ogr").wkbPoint)
    point.AddPoint_2D(float(x), float(y))
    return point


def wgs84() -> str:
    """WKT of longitude and latitude in degrees (EPSG:4326)."""
    srs = import_gdal("WGS 84", "osr").SpatialReference()
    srs.ImportFromEPSG(4326)
    return str(srs.ExportToWkt())
