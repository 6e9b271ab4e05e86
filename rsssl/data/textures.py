"""Land-cover-like structures as functions of continuous coordinates: noise, cells, fields, streets, water.

Every function takes coordinates x, y, float32 (B, H, W), in units of pixels of an upright tile, already rotated and
shifted, and returns (B, H, W). Randomness is a hash of lattice cell and `salt`, (B, 1, 1) uint32, so that a structure
goes on for ever: the same code fills a tile and a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Structure(NamedTuple):
    """What is where.

    Args:
        material: (B, H, W) int 0..3.
        shade: (B, H, W), a factor on its brightness.
    """

    material: Array
    shade: Array


class Draws:
    """Numbers for each tile, by name: `draws("width", 4, 7)` is (B, 1, 1) float32 in 4..7.

    Args:
        uniform: gives the (B,) numbers in [0, 1) of a name.
        repeat: pixels after which a road, river or lake comes again.
    """

    def __init__(self, uniform: Callable[[str], Array], repeat: float) -> None:
        self._uniform, self.repeat = uniform, repeat

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> Array:
        return (low + (high - low) * self._uniform(name)).astype(np.float32)[:, None, None]

    def salt(self, name: str) -> Array:
        """A (B, 1, 1) uint32 that tells one use of a lattice from another."""
        return (self._uniform(name) * 2.0**32).astype(np.uint32)[:, None, None]


def lattice(ix: Array, iy: Array, salt: Array) -> Array:
    """A number in [0, 1) for every lattice cell: a multiply-xorshift hash of its integer coordinates."""
    h = ix.astype(np.int32).view(np.uint32) * np.uint32(0x27D4EB2D)
    h = h ^ (iy.astype(np.int32).view(np.uint32) * np.uint32(0x165667B1)) ^ salt
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    h = h ^ (h >> np.uint32(15))
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def value_noise(x: Array, y: Array, salt: Array) -> Array:
    """Smooth noise in 0..1 with features of one unit."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    a, b = lattice(x0, y0, salt), lattice(x0 + 1, y0, salt)
    c, d = lattice(x0, y0 + 1, salt), lattice(x0 + 1, y0 + 1, salt)
    top = a + (b - a) * fx
    return top + (c + (d - c) * fx - top) * fy


def fractal(x: Array, y: Array, salt: Array, scale: float | Array, octaves: int = 3) -> Array:
    """Fractal noise in 0..1: value noise of several sizes.

    Args:
        x: see above.
        y: see above.
        salt: see above.
        scale: of the coarsest features, in pixels.
        octaves: how many sizes.
    """
    total, weight = np.zeros(np.broadcast_shapes(x.shape, salt.shape), np.float32), 0.0
    for i in range(octaves):
        total += 0.5**i * value_noise(x * (2**i / scale), y * (2**i / scale), salt + np.uint32(i))
        weight += 0.5**i
    return total / np.float32(weight)


def dots(
    x: Array, y: Array, salt: Array, spacing: Array, radius: Array, jitter: float, share: float | Array
) -> tuple[Array, Array]:
    """Round crowns in the cells of a grid.

    Args:
        x: see above.
        y: see above.
        salt: see above.
        spacing: side of a cell, in pixels.
        radius: of a crown.
        jitter: 0 plants a regular grid, 1 scatters.
        share: of the cells that have a crown.

    Returns:
        Height 0..1 of a dome, 0 outside; and the crown's number.
    """
    u, v = x / spacing, y / spacing
    iu, iv = np.floor(u), np.floor(v)
    height, number = np.zeros_like(x), np.zeros_like(x)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            cx, cy = iu + dx, iv + dy
            own = lattice(cx, cy, salt)
            px = cx + 0.5 + jitter * (lattice(cx, cy, salt + np.uint32(1)) - 0.5)
            py = cy + 0.5 + jitter * (lattice(cx, cy, salt + np.uint32(2)) - 0.5)
            dome = 1 - ((u - px) ** 2 + (v - py) ** 2) * (spacing / (radius * (0.7 + 0.6 * own))) ** 2
            dome = np.where(lattice(cx, cy, salt + np.uint32(3)) < share, dome, 0)
            higher = dome > height
            height, number = np.where(higher, dome, height), np.where(higher, own, number)
    return height, number


def wrap(v: Array, period: float | Array) -> Array:
    """v modulo period, centred on 0."""
    return v - period * np.round(v / period)


def cropland(x: Array, y: Array, d: Draws) -> Structure:
    """Rectangular parcels, each its own crop, many with straight rows along one of their sides."""
    w, h = d("parcel width", 18, 34), d("parcel height", 14, 26)
    row = np.floor(y / h)
    x = x + w * lattice(row, row, d.salt("stagger"))
    column = np.floor(x / w)
    salt = d.salt("parcel")
    crop, along = lattice(column, row, salt), lattice(column, row, salt + np.uint32(1))
    rows = np.sin((np.where(along < 0.5, x, y)) * (2 * np.pi / d("row spacing", 2.6, 4.5)))
    strength = 0.22 * (lattice(column, row, salt + np.uint32(2)) < 0.65)
    edge = np.minimum(np.minimum(x - column * w, (column + 1) * w - x), np.minimum(y - row * h, (row + 1) * h - y))
    material = np.where(edge < 0.7, 3, (crop * 3.999).astype(np.int8))
    return Structure(material, 1 + strength * rows + 0.12 * (fractal(x, y, salt, 9) - 0.5))


def dunes(x: Array, y: Array, d: Draws) -> Structure:
    """Curved ridges, lit from one side."""
    salt = d.salt("dunes")
    bend = d("bend", 8, 18) * (fractal(x, y, salt, d("bend scale", 18, 34), 2) - 0.5)
    phase = (y + bend) / d("ridge spacing", 5, 9) + fractal(x, y, salt + np.uint32(9), 12, 2)
    ridge = np.abs(2 * (phase - np.floor(phase)) - 1)
    saw = phase - np.floor(phase)
    material = np.where(fractal(x, y, salt + np.uint32(5), 22, 2) > 0.62, 1, 0)
    return Structure(material, 0.78 + 0.28 * saw + 0.16 * ridge)


def forest(x: Array, y: Array, d: Draws) -> Structure:
    """Closed canopy of scattered crowns, with clearings."""
    spacing = d("crown spacing", 3.6, 5.6)
    height, number = dots(x, y, d.salt("crowns"), spacing, spacing * 0.72, 0.95, 0.97)
    clearing = fractal(x, y, d.salt("clearing"), d("clearing scale", 14, 30), 2) > d("clearing share", 0.6, 0.8)
    material = np.where(clearing | (height <= 0), 1, np.where(number > 0.75, 2, 0))
    return Structure(material, np.where(clearing, 0.95, 0.55 + 0.55 * np.sqrt(height) + 0.2 * (number - 0.5)))


def orchard(x: Array, y: Array, d: Draws) -> Structure:
    """Crowns in straight rows, in blocks parted by tracks."""
    spacing = d("tree spacing", 4.2, 6.4)
    y = y * d("row stretch", 0.8, 1.0)
    height, number = dots(x, y, d.salt("trees"), spacing, spacing * 0.42, 0.12, 0.95)
    block = d("block", 26, 44)
    track = np.minimum(np.abs(wrap(x, block)), np.abs(wrap(y, block * 0.8))) < 1.2
    material = np.where(track, 3, np.where(height > 0, np.where(number > 0.8, 2, 0), 1))
    ground = 0.9 + 0.2 * fractal(x, y, d.salt("ground"), 12)
    return Structure(material, np.where(~track & (height > 0), 0.65 + 0.5 * np.sqrt(height), ground))


def shrubland(x: Array, y: Array, d: Draws) -> Structure:
    """Patchy ground with single shrubs."""
    salt = d.salt("shrubs")
    spacing = d("shrub spacing", 4.5, 7)
    height, number = dots(x, y, salt, spacing, spacing * 0.34, 1.0, d("shrub share", 0.3, 0.65))
    patch = fractal(x, y, salt + np.uint32(7), d("patch scale", 12, 28), 4)
    material = np.where(height > 0, np.where(number > 0.8, 2, 0), np.where(patch > 0.55, 1, 3))
    return Structure(material, np.where(height > 0, 0.7 + 0.4 * height, 0.75 + 0.5 * patch))


def _built(x: Array, y: Array, d: Draws, lot: Array, fill: tuple[float, float], share: float) -> Structure:
    """Streets around blocks of lots, a building on each of most lots."""
    salt = d.salt("lots")
    deep, wide = lot * d("lots per block", 1.6, 2.6), lot * 4
    street = np.minimum(np.abs(wrap(y, deep + 3)), np.abs(wrap(x, wide + 3))) < 1.5
    i, j = np.floor(x / lot), np.floor(y / lot)
    fx, fy = x / lot - i - 0.5, y / lot - j - 0.5
    low, high = fill
    w = 0.5 * (low + (high - low) * lattice(i, j, salt))
    h = 0.5 * (low + (high - low) * lattice(i, j, salt + np.uint32(1)))
    ox = (0.5 - w) * (2 * lattice(i, j, salt + np.uint32(2)) - 1) * 0.8
    oy = (0.5 - h) * (2 * lattice(i, j, salt + np.uint32(3)) - 1) * 0.8
    inside = (np.abs(fx - ox) < w) & (np.abs(fy - oy) < h) & (lattice(i, j, salt + np.uint32(4)) < share) & ~street
    shadow = (np.abs(fx - ox - 1.2 / lot) < w) & (np.abs(fy - oy - 1.2 / lot) < h) & ~inside & ~street
    roof = lattice(i, j, salt + np.uint32(5))
    ridge = 0.12 * np.sign(fy - oy)
    ground = 0.85 + 0.3 * fractal(x, y, salt + np.uint32(6), 6)
    material = np.where(street, 3, np.where(inside, np.where(roof > 0.6, 2, 0), 1))
    shade = np.where(inside, 0.85 + 0.35 * roof + ridge, np.where(street, 1.0, ground))
    return Structure(material, np.where(shadow, shade * 0.65, shade))


def residential(x: Array, y: Array, d: Draws) -> Structure:
    """Small houses on lots along streets."""
    return _built(x, y, d, d("lot", 5.5, 8), (0.45, 0.75), 0.88)


def industrial(x: Array, y: Array, d: Draws) -> Structure:
    """Large halls and yards."""
    return _built(x, y, d, d("plot", 17, 27), (0.5, 0.92), 0.85)


def _land(x: Array, y: Array, d: Draws) -> Structure:
    """The country that a road or a river crosses: fields, shrubs or bare ground, differing from tile to tile."""
    ground = fractal(x, y, d.salt("land"), d("land scale", 12, 30), 4)
    plain = Structure(np.where(ground > 0.52, 1, 3), 0.75 + 0.5 * ground)
    fields, shrubs, trees = cropland(x, y, d), shrubland(x, y, d), forest(x, y, d)
    kind = d("kind of land")
    material, shade = plain
    for limit, other in ((0.45, fields), (0.3, shrubs), (0.15, trees)):
        material, shade = np.where(kind < limit, other.material, material), np.where(kind < limit, other.shade, shade)
    return Structure(np.where(material == 0, 1, material), shade)  # material 0 is the road's or the water's


def highway(x: Array, y: Array, d: Draws) -> Structure:
    """A straight road of even width with a dividing line, sometimes crossed by a smaller one."""
    land = _land(x, y, d)
    across = wrap(y + d("off", -12, 12), d.repeat)
    width = d("road width", 3.2, 6.0)
    road = np.abs(across) < width
    line = np.abs(across) < 0.6
    small = (np.abs(wrap(x + d("crossing", -20, 20), d.repeat)) < 1.3) & (d("crossed") < 0.5)
    verge = ~road & (np.abs(across) < width + 1.5)
    material = np.where(road | small, 0, land.material)
    shade = np.where(road & line, 1.45, np.where(road | small, 1.0, np.where(verge, 0.75, land.shade)))
    return Structure(material, shade)


def river(x: Array, y: Array, d: Draws) -> Structure:
    """A meandering band of smooth water with uneven banks."""
    land = _land(x, y, d)
    salt = d.salt("river")
    meander = d("swing", 7, 13) * np.sin(x * (2 * np.pi / d("meander", 36, 64)) + 6.3 * d("phase"))
    meander = meander + 9 * (fractal(x, x * 0, salt, 20, 2) - 0.5)
    width = d("river width", 3.2, 6.5) + 3 * (fractal(x, y, salt + np.uint32(3), 12, 2) - 0.5)
    across = np.abs(wrap(y + meander + d("off", -9, 9), d.repeat))
    water, bank = across < width, across < width + 1.4
    ripple = 1 + 0.05 * (fractal(x, y, salt + np.uint32(5), 5, 2) - 0.5)
    return Structure(
        np.where(water, 0, np.where(bank, 2, land.material)), np.where(water, ripple, np.where(bank, 0.9, land.shade))
    )


def lake(x: Array, y: Array, d: Draws) -> Structure:
    """A wide body of smooth water with a curved shore."""
    land = _land(x, y, d)
    salt = d.salt("lake")
    half = 40.0  # whatever the distance to the next one
    cx, cy = wrap(x + d("east", -14, 14), d.repeat), wrap(y + d("north", -14, 14), d.repeat)
    distance = np.sqrt(cx**2 + cy**2 * d("stretch", 0.7, 1.5)) / half
    level = distance + 0.9 * (fractal(x, y, salt, 22, 3) - 0.5) - d("extent", 0.4, 0.62)
    water, bank = level < 0, level < 0.035
    ripple = 1 + 0.06 * (fractal(x, y, salt + np.uint32(5), 6, 2) - 0.5)
    return Structure(
        np.where(water, 0, np.where(bank, 2, land.material)), np.where(water, ripple, np.where(bank, 1.0, land.shade))
    )


CLASSES: dict[str, Callable[[Array, Array, Draws], Structure]] = {
    f.__name__: f for f in (cropland, dunes, forest, highway, industrial, lake, orchard, residential, river, shrubland)
}
