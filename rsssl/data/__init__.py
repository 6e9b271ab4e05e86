"""From folders of imagery to packs: catalog, raster, pack, split. Importing this costs neither torch, PIL nor GDAL."""

from __future__ import annotations

from typing import Any

from rsssl.data.catalog import Catalog, scan
from rsssl.data.dataset import Dataset
from rsssl.data.raster import BadImage

__all__ = ["BadImage", "Catalog", "Dataset", "Pack", "scan"]


def __getattr__(name: str) -> Any:
    # Pack pulls in rsssl.models, so it waits until somebody asks for it.
    if name == "Pack":
        from rsssl.data.pack import Pack

        return Pack
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
