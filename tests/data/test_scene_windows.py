"""Windows of scenes as the images of a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsssl
from rsssl.data import chunks
from rsssl.data.packing import pack
from rsssl.data.raster import write_geotiff
from rsssl.errors import UserError

pytest.importorskip("osgeo")


def test_a_scene_replaced_while_it_is_packed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, whole = tmp_path / "a.tif", chunks.conform
    noise = np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8)
    write_geotiff(scene, noise, (5e5, 10, 0, 5.4e6, 0, -10), "EPSG:32632")
    dataset = rsssl.dataset("scene", scenes=str(scene), window=16)

    def replacing(*image: Any) -> Any:
        write_geotiff(scene, noise[:, ::-1] // 2, (5e5, 10, 0, 5.4e6, 0, -10), "EPSG:32632", compress=None)
        return whole(*image)

    monkeypatch.setattr(chunks, "conform", replacing)
    with pytest.raises(UserError, match=r"a\.tif changed while the images were packed: type the same command again"):
        pack(dataset, tmp_path / "p", workers=1, progress=False)
