"""Which tiles belong together, and that the odd views of a batch show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rsssl
from rsssl import rng
from rsssl.augment import Local, RandomAreaCrop, Symmetry, Views
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.places import Partners, class_folders, place_names
from rsssl.data.pool import Pool, Source
from rsssl.data.raster import write_geotiff
from rsssl.errors import UserError
from rsssl.models.preprocess import Preprocess


def test_places_are_read_from_folders_or_names() -> None:
    paths = ["a/1/jan.tif", "a/1/jul.tif", "b/2/jan.tif"]
    assert place_names(paths, "folder") == ["a/1", "a/1", "b/2"]
    assert place_names(["jan/1.tif", "jul/1.png", "jul/2.tif"], "name") == ["1", "1", "2"]
    assert class_folders(["forest/1.tif", "lake/2.tif"], ["forest", "lake"])
    assert not class_folders(["forest/1/jan.tif"], ["forest"]) and not class_folders(["1/jan.tif"], [])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 2**63))
def test_a_partner_is_another_tile_of_the_place(number: list[int], key: int) -> None:
    places = [str(n) for n in number]
    if len(set(places)) in (1, len(places)):  # all together, or each alone
        with pytest.raises(UserError, match="ssl=simclr"):
            Partners(places, "type ssl=simclr")
        return
    partners = Partners(places, "")
    ids = np.arange(len(places))
    found = partners(key, ids)
    for i, partner in enumerate(found):
        assert places[i] == places[partner]
        assert (i == partner) == (places.count(places[i]) == 1)
    assert partners.alone == sum(places.count(p) == 1 for p in places)
    assert np.array_equal(found[::-1], partners(key, ids[::-1])), "whatever the batch"


def test_every_other_tile_is_as_likely() -> None:
    partners = Partners(["a"] * 5 + ["b"], "")
    found = np.array([partners(rng.fold(i), np.array([2]))[0] for i in range(2000)])
    counts = np.bincount(found, minlength=5)
    assert counts[2] == 0 and (abs(counts[[0, 1, 3, 4]] - 500) < 90).all()


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """12 places at two dates; every pixel of a tile is its place times 1,000 plus 500 at the second date."""
    root = tmp_path_factory.mktemp("places")
    for place in range(12):
        (root / f"{place:02}").mkdir()
        for date in range(2):
            pixels = np.full((2, 16, 16), 1000 * place + 500 * date + 100, np.uint16)
            write_geotiff(root / f"{place:02}" / f"{date}.tif", pixels)
    pack(
        rsssl.dataset(name="places", root=str(root), classes=[], valid_range=[0, 20000], bands=["a", "b"]),
        root / "pack",
        1,
    )
    return Pack.open(root / "pack")


def batches(packed: Pack, views: Views, together: bool, **options: object) -> PoolBatches:
    partners = Partners(place_names(packed.paths, "folder"), "") if together else None
    pool = Pool([Source(packed, np.arange(len(packed.paths)))], partners=partners)
    preprocess = Preprocess(packed.card, 16, (0, 0), (1, 1))
    return PoolBatches(pool, views, 4, preprocess, Sampling(8, 3, 0, "key"), **options)  # type: ignore[arg-type]


def test_odd_views_show_the_partner(brightness: Pack) -> None:
    values = brightness.images[:, 0, 0, 0].astype(np.float64) / 20000
    for batch in batches(brightness, Views({"flip": Symmetry()}), True).start(0):
        shown = batch.views.mean((2, 3, 4)).numpy()  # (V, B)
        own = values[batch.ids.numpy()]
        other = values[batch.ids.numpy() ^ 1]  # two dates of a place are neighbours in the pack
        for view in range(4):
            np.testing.assert_allclose(shown[view], own if view % 2 == 0 else other, atol=1e-6)


def test_small_views_come_beside_the_full_ones(brightness: Pack) -> None:
    views = Views(
        {"flip": Symmetry()}, local=Local({"crop": RandomAreaCrop(area=(0.1, 0.2))}, views=3, scale=0.5, multiple=8)
    )
    batch = next(batches(brightness, views, False, local=True).start(0))
    assert batch.views.shape == (4, 8, 2, 16, 16) and batch.local is not None and batch.local.shape == (3, 8, 2, 8, 8)
    values = brightness.images[:, 0, 0, 0].astype(np.float64) / 20000
    np.testing.assert_allclose(batch.local.mean((2, 3, 4))[1].numpy(), values[batch.ids.numpy()], atol=1e-6)
    without = next(batches(brightness, views, False).start(0))
    assert without.local is None and torch.equal(without.views, batch.views), "asked for by the method alone"
    with pytest.raises(UserError, match=r"augment\.local\.views=4"):
        Local({}, views=0)


def test_a_sample_for_people_is_the_same_every_time(brightness: Pack) -> None:
    source = batches(brightness, Views({"flip": Symmetry()}), True)
    a, b = source.sample(5), source.sample(5)
    assert torch.equal(a.views, b.views) and a.views.shape[1] == 5


def test_a_missing_layout_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no two of the 3 tiles"):
        Partners(["a", "b", "c"], "type something")
