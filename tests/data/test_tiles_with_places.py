"""Tiles that are files of their own and say where they lie are divided by place when that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsssl
from rsssl.data.prepared import load
from rsssl.data.raster import write_geotiff
from rsssl.engine.store import Store
from rsssl.errors import UserError

pytest.importorskip("osgeo")


def tiles(folder: Path, placed: bool = True) -> np.ndarray:
    """Two classes of 40 tiles of 320 m, in places of four; the middles (80, 2) in metres."""
    draw, middles = np.random.default_rng(0), []
    for i in range(80):
        place = folder / "ab"[i % 2] / f"{i:02d}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        x, y = 400_000.0 + 5_000 * (i // 8) + 300 * (i % 4), 5_600_000.0 + 300 * (i % 3)
        middles.append((x + 160, y - 160))
        pixels = draw.integers(0, 255, (3, 32, 32), np.uint8)
        write_geotiff(
            place, pixels, (x, 10.0, 0.0, y, 0.0, -10.0) if placed else None, "EPSG:32632" if placed else None
        )
    return np.array(middles)


def test_places_are_never_on_both_sides(tmp_path: Path) -> None:
    middles = tiles(tmp_path / "tiles")
    dataset = rsssl.dataset("folder", tmp_path / "tiles", block=2000.0)
    data = load(dataset, Store(tmp_path / "store"), 1)
    number = [int(Path(path).stem) for path in data.pack.paths]
    test, pool = ({number[i] for i in rows} for rows in (data.split.test, data.split.pool))
    assert 8 <= len(test) <= 32 and 60 <= len(test | pool) <= 80
    apart = np.linalg.norm(middles[sorted(test)][:, None] - middles[sorted(pool)], axis=2)
    assert apart.min() > 2000
    random = load(rsssl.dataset("folder", tmp_path / "tiles"), Store(tmp_path / "store"), 1)
    assert random.ground is None and data.at_random().split.hash == random.split.hash != data.split.hash


def test_tiles_that_do_not_say_where_they_lie_are_named(tmp_path: Path) -> None:
    tiles(tmp_path / "tiles", placed=False)
    dataset = rsssl.dataset("folder", tmp_path / "tiles", block=2000.0)
    with pytest.raises(UserError, match=r"80 of 80 .* do not say: leave dataset\.block out"):
        load(dataset, Store(tmp_path / "store"), 1)
