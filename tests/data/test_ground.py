"""Divisions by place, each property looked at pair by pair; distances against the haversine formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from rsssl.data.ground import EARTH, Ground, affordable_block, default_block, distance_to, ground_split, together
from rsssl.errors import UserError

BLOCK, SIDE = 500.0, 100.0


def haversine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (lon1, lat1), (lon2, lat2) = np.radians(a).T, np.radians(b).T
    h = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH * np.arcsin(np.sqrt(h))


def scattered(n: int, seed: int = 0, polygons: int = 0, lat: float = 50.0, wide: float = 0.1) -> Ground:
    """n images at random; the first of them in so many polygons of ten neighbours."""
    draw = np.random.default_rng(seed)
    lonlat = np.array([8.0, lat]) + draw.uniform(0, wide, (n, 2))
    feature = np.full(n, -1)
    for p in range(polygons):
        mine = slice(10 * p, 10 * p + 10)
        lonlat[mine] = lonlat[10 * p] + draw.uniform(0, 0.004, (10, 2))
        feature[mine] = p
    windows = np.stack([np.zeros(n), draw.permutation(n), draw.permutation(n)], 1).astype(int)
    return Ground(lonlat, np.full(n, SIDE), windows, feature, np.zeros(n, bool))


@pytest.mark.parametrize("lat", [0.0, 50.0, -75.0])
def test_distances_are_those_on_the_ground(lat: float) -> None:
    ground = scattered(40, lat=lat)
    apart = distance_to(ground.places()[:30], ground.places()[30:])
    pairs = [[haversine(a[None], b[None])[0] for b in ground.lonlat[30:]] for a in ground.lonlat[:30]]
    np.testing.assert_allclose(apart, np.min(pairs, 1), rtol=1e-5)
    cells = ground.cells(BLOCK)
    for i, j in np.argwhere((cells[:, None] == cells[None]).all(2)):
        assert haversine(ground.lonlat[i : i + 1], ground.lonlat[j : j + 1])[0] < 1.01 * BLOCK * 2**0.5


@pytest.mark.parametrize("polygons", [0, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_near_is_on_both_sides(seed: int, polygons: int) -> None:
    ground = scattered(600, seed, polygons)
    labels = np.random.default_rng(seed).integers(-1, 3, 600)
    if polygons:
        labels[: 10 * polygons] = np.repeat(np.arange(polygons) % 3, 10)
        labels[10 * polygons :] = -1
    paths = [f"{i}" for i in range(600)]
    drawn = ground_split(ground, paths, labels, ("a", "b", "c"), 0, 0.2, BLOCK)
    assert not set(drawn.test) & set(drawn.pool) and (labels[drawn.test] >= 0).all()
    for i in drawn.pool:
        apart = haversine(np.repeat(ground.lonlat[i : i + 1], len(drawn.test), 0), ground.lonlat[drawn.test]).min()
        assert apart > (BLOCK if labels[i] >= 0 else SIDE) * 0.9999
        assert ground.feature[i] < 0 or ground.feature[i] not in ground.feature[drawn.test]
    for c in range(3):
        share = (labels[drawn.test] == c).sum() / (labels == c).sum()
        assert 0.1 < share < 0.45 and (labels[drawn.pool] == c).any()
    again = ground_split(ground, paths, labels, ("a", "b", "c"), 0, 0.2, BLOCK)
    other = ground_split(ground, paths, labels, ("a", "b", "c"), 1, 0.2, BLOCK)
    assert again.hash == drawn.hash != other.hash


def test_an_own_test_set_is_taken_as_it_is_and_keeps_its_distance() -> None:
    ground = scattered(300)
    labels = np.random.default_rng(1).integers(0, 2, 300)
    own = np.zeros(300, bool)
    own[:30] = True
    ground = Ground(ground.lonlat, ground.side, ground.windows, np.arange(300), own)
    drawn = ground_split(ground, [f"{i}" for i in range(300)], labels, ("a", "b"), 0, 0.2, BLOCK)
    assert drawn.test.tolist() == list(range(30))
    assert distance_to(ground.places()[drawn.pool], ground.places()[:30]).min() >= BLOCK


def test_a_class_that_would_lose_all_its_labels_is_named() -> None:
    ground = scattered(20, wide=0.002)
    labels = np.repeat([0, 1], 10)
    ground = Ground(ground.lonlat, ground.side, ground.windows, np.arange(20), ground.own_test)
    with pytest.raises(UserError, match=r"class (beach|reed) has no label .* type dataset\.block=250"):
        ground_split(ground, [f"{i}" for i in range(20)], labels, ("beach", "reed"), 0, 0.2, BLOCK)


def test_groups_are_the_connected_parts() -> None:
    ground = scattered(150, polygons=5)
    near = np.array([[haversine(a[None], b[None])[0] < 900 for b in ground.lonlat] for a in ground.lonlat])
    same = (ground.feature[:, None] == ground.feature) & (ground.feature >= 0)
    _, truth = connected_components(near | same)
    found = together(ground, 900)
    assert len(set(zip(found, truth, strict=True))) == len(set(found)) == len(set(truth)) > 3


def test_the_block_is_as_long_as_images_look_alike() -> None:
    """Waves of a known length: at a quarter of it two images have nothing in common any more."""
    ground = scattered(1500, wide=0.3)
    x, y = ground.places()[:, 1], ground.places()[:, 2]
    ranges = []
    for length in (4000.0, 8000.0):
        draw = np.random.default_rng(0)
        waves = sum(
            np.cos(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / length + draw.uniform(0, 6))
            for a in draw.uniform(0, np.pi, 40)
        )
        ranges.append(default_block(ground, np.stack([waves, 0.1 * draw.normal(size=1500)], 1)))
    assert 1000 < ranges[0] < 2500 and 1.5 < ranges[1] / ranges[0] < 2.7
    assert default_block(ground, np.random.default_rng(0).normal(size=(1500, 3))) <= 4 * SIDE, "noise is alike nowhere"


def test_a_block_costs_at_most_a_tenth_of_the_labels() -> None:
    ground = scattered(60)
    ground = Ground(ground.lonlat, ground.side, ground.windows, np.arange(60), ground.own_test)
    labels, paths = np.arange(60) % 3, [f"{i}" for i in range(60)]
    block = affordable_block(ground, paths, labels, 0, 0.2, 5000.0)
    drawn = ground_split(ground, paths, labels, ("a", "b", "c"), 0, 0.2, block)
    assert 2 * SIDE <= block < 5000
    assert 60 - len(drawn.test) - len(drawn.pool) <= 6


def test_without_a_crs_scenes_lie_far_from_each_other(tmp_path: Path) -> None:
    windows = np.array([[0, 0, 0], [0, 0, 16], [1, 0, 0]])
    ground = Ground(np.full((3, 2), np.nan), np.ones(3), windows, np.full(3, -1), np.zeros(3, bool))
    assert distance_to(ground.places()[:1], ground.places()[1:2])[0] == pytest.approx(16)
    assert distance_to(ground.places()[:1], ground.places()[2:])[0] > EARTH
    ground.save(tmp_path / "ground.npz")
    assert np.array_equal(Ground.load(tmp_path / "ground.npz").windows, windows)
