"""The built-in dataset: the same for the same seed, read back whole, and not to be solved by colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import rsssl
from rsssl.data import geotiff
from rsssl.data.packing import pack
from rsssl.data.raster import import_gdal
from rsssl.data.scene_file import SceneFile
from rsssl.data.synthetic import BANDS, CLASSES, ensure, scene, tiles
from rsssl.errors import UserError

# What conf/dataset/synthetic.yaml says of them, with fewer and smaller tiles.
FEW = rsssl.dataset("synthetic").generate | {"per_class": 2, "size": 16, "scene_size": 64}


def test_a_tile_depends_on_its_number_and_seed_only() -> None:
    together = tiles("river", np.arange(4))
    assert together.shape == (4, 3, 64, 64) and together.dtype == np.uint8
    assert np.array_equal(tiles("river", np.array([2]))[0], together[2])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(tiles("river", np.array([2]), seed=1)[0], together[2])


def test_thirteen_bands_are_the_same_ground_in_more_colours() -> None:
    wide = tiles("lake", np.arange(2), bands=13)
    assert wide.shape == (2, 13, 64, 64) and wide.dtype == np.uint16 and wide.max() <= 10000
    edges = np.abs(np.diff(wide[0, BANDS.index("B04")].astype(float), axis=0))
    assert edges.max() > 4 * edges.mean()  # there is a shore


def test_the_folder_is_made_once_and_packs(tmp_path: Path) -> None:
    generate = FEW | {"per_class": 3, "size": 32, "scene_size": 128}
    dataset = rsssl.dataset("synthetic", str(tmp_path), classes=list(CLASSES), generate=generate)
    packed = pack(dataset, tmp_path / "pack", workers=1, progress=False)
    assert packed.images.shape == (30, 3, 32, 32) and packed.card.bands == ("red", "green", "blue")
    assert packed.card.classes == tuple(CLASSES) and np.bincount(packed.labels).tolist() == [3] * 10
    expected = tiles("forest", np.arange(3), size=32)
    assert np.array_equal(packed.images[packed.labels == packed.card.classes.index("forest")], expected)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")}
    assert len(dataset.catalog()) == 30 and {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")} == stamps
    assert {p.name for p in tmp_path.rglob("scene*.tif")} == {"scene.tif", "scene_classes.tif"}
    assert all(p.name[0] == "." for p in tmp_path.rglob("*.lock")), "locks are hidden"


def test_an_interrupted_making_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsssl.data import synthetic

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "scene", broken)
        with pytest.raises(KeyboardInterrupt):
            ensure(tmp_path, **FEW)
    folder = ensure(tmp_path, **FEW)
    assert len(list(folder.rglob("*.tif"))) == 20 and (folder.parent / "scene.tif").is_file()


def test_the_scene_is_georeferenced_and_holds_every_class(tmp_path: Path) -> None:
    pytest.importorskip("osgeo")
    folder = ensure(tmp_path, **FEW | {"scene_size": 512, "bands": 13}).parent
    image, truth = geotiff.read(folder / "scene.tif"), geotiff.read(folder / "scene_classes.tif")
    assert image.pixels.shape == (13, 512, 512) and image.names == BANDS
    grids = [SceneFile(folder / f"{name}.tif").grid for name in ("scene", "scene_classes")]
    assert grids[0] == grids[1] and grids[0].geotransform is not None and grids[0].geotransform[1] == 10.0
    assert import_gdal("", "osr").SpatialReference(wkt=grids[0].projection).GetAuthorityCode(None) == "32632"
    assert set(np.unique(truth.pixels)) == set(range(10))
    again, classes = scene(13, 512)
    assert np.array_equal(again, image.pixels) and np.array_equal(classes, truth.pixels[0])


def test_colour_alone_does_not_solve_it() -> None:
    """Per-band mean, std, min and max with 20 labels a class: better than chance (0.1), far from solved."""
    images = np.concatenate([tiles(kind, np.arange(40)) for kind in CLASSES]) / 255
    labels = np.repeat(np.arange(10), 40)
    axes = (2, 3)
    statistics = np.concatenate([images.mean(axes), images.std(axes), images.min(axes), images.max(axes)], axis=1)
    train = np.tile(np.arange(40) < 20, 10)
    scaler = StandardScaler().fit(statistics[train])
    model = LogisticRegression(max_iter=500).fit(scaler.transform(statistics[train]), labels[train])
    accuracy = model.score(scaler.transform(statistics[~train]), labels[~train])
    assert 0.15 < accuracy < 0.6


@pytest.mark.parametrize("wrong", [{"bands": 4}, {"size": 4}, {"per_class": 1}])
def test_impossible_requests(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"dataset\.generate"):
        ensure(tmp_path, **FEW | wrong)


@pytest.mark.parametrize("generate", [{k: v for k, v in FEW.items() if k != "per_class"}, FEW | {"trees": 3}])
def test_a_key_too_few_or_too_many_is_refused(generate: dict[str, int], tmp_path: Path) -> None:
    dataset = rsssl.dataset("synthetic", str(tmp_path), classes=list(CLASSES), generate=generate)
    with pytest.raises(UserError, match=r"dataset\.generate: .*'(per_class|trees)'.*type dataset=synthetic"):
        dataset.source()
