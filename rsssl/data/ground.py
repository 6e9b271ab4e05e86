"""Where images lie on the ground, and how labelled ones are divided so that no place is on both sides."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rsssl.data.split import Split, division_hash, ranked, share_of
from rsssl.errors import UserError
from rsssl.rng import fold, permutation

log = logging.getLogger(__name__)
EARTH = 6_371_000.0  # metres, the radius
DEGREE = EARTH * math.pi / 180  # metres, of latitude
LOOKED_AT, LAGS = 1500, 15  # images and distances of the variogram
LEVEL = 0.95  # of the sill, where a variogram's range ends
AFFORDED = 0.1  # of the labels may lie too near to those that test
AT_ONCE = 1 << 22  # distances in memory
RECORD = np.dtype([("lonlat", "<f8", 2), ("side", "<f8"), ("windows", "<i8", 3), ("feature", "<i8"), ("own_test", "?")])


@dataclass(frozen=True)
class Ground:
    """Where the N images of a pack lie.

    Args:
        lonlat: (N, 2) degrees of their centres; NaN where no CRS says it.
        side: (N,) metres of a side; pixels where no CRS says it.
        windows: (N, 3) which scene, row and column of its first pixel; -1 for images that are files of their own.
        feature: (N,) which point or polygon gave its label; -1 for none.
        own_test: (N,) bool, labelled by the user's own test set.
    """

    lonlat: np.ndarray
    side: np.ndarray
    windows: np.ndarray
    feature: np.ndarray
    own_test: np.ndarray

    def rows(self, some: np.ndarray) -> Ground:
        """Of some images alone."""
        return Ground(*(getattr(self, f.name)[some] for f in fields(self)))

    def records(self) -> np.ndarray:
        """(N,) RECORD, as a pack's file holds it, which is mapped and not loaded."""
        content = np.empty(len(self.side), RECORD)
        for f in fields(self):
            content[f.name] = getattr(self, f.name)
        return content

    @classmethod
    def of_records(cls, content: np.ndarray) -> Ground:
        """The inverse of `records`: views of that array."""
        return cls(*(content[f.name] for f in fields(cls)))

    def save(self, file: Path) -> None:
        """As an .npz file."""
        with open(file, "wb") as stream:
            np.savez(stream, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Ground:
        """What `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(*(arrays[f.name] for f in fields(cls)))

    def places(self) -> np.ndarray:
        """(N, 3) in metres: distances between them are those on the ground, on maps of any part of the earth. Without a
        CRS they are in pixels, and every scene lies far from the others."""
        lon, lat = np.radians(self.lonlat).T
        xyz = EARTH * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
        lost = np.isnan(xyz).any(1, keepdims=True)
        return np.where(lost, self.windows[:, [2, 1, 0]] * [1.0, 1.0, 10 * EARTH], xyz)

    def cells(self, block: float) -> np.ndarray:
        """(N, 3) the square of a grid of so many metres that each lies in."""
        lon, lat = self.lonlat.T
        row = np.floor(lat * DEGREE / block)
        middle = np.radians(np.clip((row + 0.5) * block / DEGREE, -90, 90))
        cell = np.stack([np.zeros_like(row), row, np.floor(lon * DEGREE * np.cos(middle) / block)], 1)
        lost = np.isnan(cell).any(1)
        cell[lost] = np.floor(self.windows[lost] / [1, block, block])
        return cell.astype(np.int64)


def distance_to(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) metres from each of places (N, 3) to the nearest of others (M, 3); infinity where there is none."""
    out = np.full(len(places), np.inf)
    if len(others):
        squares, step = (others**2).sum(1), max(1, AT_ONCE // len(others))
        middle = others.mean(0)  # less the middle, small distances survive the subtraction of large squares
        near, squares = others - middle, ((others - middle) ** 2).sum(1)
        for i in range(0, len(places), step):
            part = places[i : i + step] - middle
            nearest = ((part**2).sum(1)[:, None] + squares - 2 * part @ near.T).min(1)
            out[i : i + step] = np.sqrt(np.maximum(nearest, 0))
    return out


def default_block(ground: Ground, means: np.ndarray) -> float:
    """How far apart images are alike: the range of the variogram of what differs most between their bands' means.

    The least distance at which half the mean squared difference of two images is LEVEL of the variance (Roberts et al.
    2017, "Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic structure",
    Ecography 40), no less than two sides of an image and no more than an eighth of the whole extent; in two digits.

    Args:
        ground: of the images.
        means: (N, C) of their bands.
    """
    chosen = np.sort(permutation(0, len(means))[:LOOKED_AT])
    x = means[chosen] - means[chosen].mean(0)
    x = x / np.maximum(x.std(0), 1e-12)
    score = x @ np.linalg.eigh(x.T @ x)[1][:, -1]
    places = ground.places()[chosen]
    middle = places.mean(0)
    places = places - middle
    squares = (places**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * places @ places.T, 0))
    apart[apart > EARTH] = np.nan  # of two scenes without a CRS
    side, extent = float(np.median(ground.side)), float(np.nanmax(apart))
    low, high = 2 * side, max(2 * side, extent / 8)
    edges = np.geomspace(side, max(extent / 2, 2 * side), LAGS + 1)
    lag = np.digitize(apart, edges)
    half = (score[:, None] - score) ** 2 / 2
    reached = high
    for i in range(1, LAGS + 1):
        pairs = half[lag == i]
        if len(pairs) >= 30 and pairs.mean() >= LEVEL * score.var():
            reached = float(np.sqrt(edges[i - 1] * edges[i]))
            break
    value = min(max(reached, low), high)
    return max(round_down(value), low)


def ground_split(
    ground: Ground,
    paths: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    split_seed: int,
    test_fraction: float,
    block: float,
) -> Split:
    """Sets a part of the labelled images aside as the test set, such that none of the others is near.

    What goes to the test set together is all images of one polygon or point; where the labels are those of a class
    raster or of folders, all of one square of a grid of `block` metres. An own test set is taken as it is. Labelled
    images of a polygon that tests, or whose centre is nearer than `block` to that of one that tests, are left out of
    both parts, as are images without a label that overlap one that tests.

    Args:
        ground: of the N images.
        paths: their names.
        labels: (N,), -1 for an unlabelled image.
        classes: their names.
        split_seed: draws the test set.
        test_fraction: of each class's images, at least one polygon, point or square, and at least one is left; 0 for no
            test set.
        block: metres.

    Raises:
        UserError: when a class has no label left beside the test set.
    """
    labels = np.asarray(labels)
    unit = _units(ground, block)
    test = _tested(ground, unit, paths, labels, split_seed, test_fraction)
    places = ground.places()
    apart = distance_to(places, places[test])
    known = labels >= 0
    same = np.isin(unit, np.unique(unit[test])) & (ground.feature >= 0)
    near = np.where(known, (apart < block) | same, apart < ground.side) & ~test
    pool = np.flatnonzero(~test & ~near)
    for label in np.unique(labels[known]):
        if not (labels[pool] == label).any():
            raise UserError(
                f"class {classes[label]} has no label that is {block:.0f} m or more from those that "
                f"test: draw more of it elsewhere, or type dataset.block={max(1, block / 2):.0f}"
            )
    if left := int((near & known).sum()):
        log.info("%d labelled images lie within %.0f m of those that test, and are left out", left, block)
    chosen = np.flatnonzero(test)
    return Split(chosen, pool, division_hash(paths, labels, chosen, pool))


def _units(ground: Ground, block: float) -> np.ndarray:
    """(N,) the number of the polygon, point or square that each belongs to."""
    cells = np.concatenate([np.full((len(ground.side), 1), -1), ground.cells(block)], 1)
    drawn = ground.feature >= 0
    cells[drawn] = np.stack([ground.feature[drawn], *np.zeros((3, int(drawn.sum())), np.int64)], 1)
    return np.unique(cells, axis=0, return_inverse=True)[1].ravel()


def affordable_block(
    ground: Ground, paths: Sequence[str], labels: np.ndarray, split_seed: int, test_fraction: float, block: float
) -> float:
    """The largest distance up to `block`, and no less than two sides of an image, that points and polygons can afford.

    At most AFFORDED of them may have to be left out because they lie near to those that test; without a test set, every
    class with two points or polygons keeps two groups apart, and all together half as many as there are points
    and polygons. Arguments as for `ground_split`."""
    drawn = (ground.feature >= 0) & (labels >= 0)
    if not drawn.any():
        return block
    least = 2 * float(np.median(ground.side))
    test = _tested(ground, _units(ground, block), paths, labels, split_seed, test_fraction)
    if not test.any():
        return _block_of_groups(ground.rows(drawn), labels[drawn], block, least)
    places = ground.places()
    apart = np.sort(distance_to(places[drawn & ~test], places[test]))
    if not len(apart):
        return block
    return max(least, min(block, round_down(float(apart[int(AFFORDED * len(apart))]))))


def _block_of_groups(ground: Ground, labels: np.ndarray, block: float, least: float) -> float:
    features = len(np.unique(ground.feature))
    several = [c for c in np.unique(labels) if len(np.unique(ground.feature[labels == c])) > 1]
    while block > least:
        group = together(ground, block)
        apart = all(len(np.unique(group[labels == c])) > 1 for c in several)
        if apart and len(np.unique(group)) >= features / 2:
            return max(round_down(block), least)
        block /= 1.25
    return least


def round_down(value: float) -> float:
    """The largest number of two digits that is no larger."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return math.floor(value / unit) * unit


def _tested(
    ground: Ground, unit: np.ndarray, paths: Sequence[str], labels: np.ndarray, seed: int, fraction: float
) -> np.ndarray:
    """(N,) bool: the user's own test set; without one, whole units that are drawn."""
    own = ground.own_test & (labels >= 0)
    return own if own.any() else _drawn(unit, paths, labels, seed, fraction)


def _drawn(unit: np.ndarray, paths: Sequence[str], labels: np.ndarray, seed: int, fraction: float) -> np.ndarray:
    """(N,) bool: the test set, whole units; the rarest class first, since a unit may hold several classes."""
    test = np.zeros(len(labels), bool)
    if fraction == 0:
        return test
    for label in sorted(np.unique(labels[labels >= 0]), key=lambda c: (labels == c).sum()):
        members = np.flatnonzero(labels == label)
        order = list(dict.fromkeys(unit[ranked(paths, members, fold("split", seed))].tolist()))
        wanted = share_of(fraction, len(members))
        for n, candidate in enumerate(order[:-1]):
            if test[members].sum() >= wanted:
                break
            size = int((unit[members] == candidate).sum())
            if n and test[members].sum() + size > 2 * wanted:
                continue  # a large polygon would take the labels away from the training
            test |= (unit == candidate) & (labels >= 0)
    return test


def together(ground: Ground, block: float) -> np.ndarray:
    """(n,) the group of each of some images: those of one polygon are one, and so are chains of neighbours nearer than
    `block`."""
    places, group = ground.places(), np.full(len(ground.side), -1)
    while (group < 0).any():
        number, reached = group.max() + 1, np.flatnonzero(group < 0)[:1]
        while len(reached):
            group[reached] = number
            left = np.flatnonzero(group < 0)
            near = distance_to(places[left], places[reached]) < block
            drawn = ground.feature[reached]
            reached = left[near | np.isin(ground.feature[left], drawn[drawn >= 0])]
    return group
