"""The built-in dataset: ten land-cover-like classes as GeoTIFF tiles, and one large scene with its true class map.

    <root>/<bands>band-<size>px-.../tiles/<class>/*.tif
                                    scene.tif, scene_classes.tif     class numbers in the order of the class names

Classes differ in structure (`textures.py`), at any orientation. Colours are shared: every tile draws its materials from
one family of spectra, with only a mild preference of its class, then its light, haze, contrast, sharpness and noise.
Deterministic: every number is a hash of (seed, class, tile, name).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

from rsssl.data.raster import write_geotiff
from rsssl.data.textures import CLASSES, Draws, Structure, fractal
from rsssl.engine.files import lock_of, write_error
from rsssl.engine.progress import followed
from rsssl.errors import UserError
from rsssl.models.bands import COLOURS
from rsssl.rng import fold, hash64_numpy

log = logging.getLogger(__name__)

VERSION = 3  # of the pictures: a change makes the folders of older versions stale
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
GSD = 10.0
CRS = "EPSG:32632"

# Top-of-atmosphere reflectance x 10000, rounded from what such surfaces show in Sentinel-2 scenes.
SPECTRA: dict[str, tuple[int, ...]] = {
    "conifers": (1150, 850, 700, 480, 800, 1700, 2050, 2100, 700, 12, 1100, 550, 2250),
    "leaves": (1200, 920, 900, 580, 1100, 2700, 3300, 3300, 900, 12, 1800, 850, 3600),
    "grass": (1250, 1050, 1150, 850, 1450, 2600, 3000, 3000, 900, 12, 2300, 1300, 3300),
    "straw": (1400, 1300, 1400, 1650, 1950, 2300, 2500, 2550, 850, 13, 3100, 2200, 2800),
    "soil": (1450, 1300, 1350, 1550, 1750, 1900, 2050, 2050, 750, 13, 2800, 2300, 2250),
    "wet soil": (1300, 1050, 950, 950, 1100, 1250, 1350, 1350, 500, 12, 1600, 1200, 1450),
    "sand": (1700, 1800, 2100, 2500, 2700, 2800, 2950, 2950, 950, 15, 3700, 3100, 3100),
    "asphalt": (1400, 1200, 1150, 1150, 1250, 1350, 1450, 1450, 550, 13, 1550, 1350, 1500),
    "concrete": (1900, 1900, 2000, 2150, 2250, 2350, 2450, 2450, 850, 15, 2600, 2300, 2500),
    "tiles": (1450, 1250, 1350, 1800, 2000, 2150, 2250, 2250, 750, 14, 2600, 2250, 2350),
    "clear water": (1250, 950, 650, 400, 380, 320, 300, 260, 120, 11, 120, 80, 240),
    "turbid water": (1400, 1200, 1150, 950, 850, 500, 450, 380, 150, 11, 180, 120, 350),
}
_NAMES = tuple(SPECTRA)
_GREEN, _EARTH = ("conifers", "leaves", "grass"), ("straw", "soil", "wet soil", "sand")
_BUILT = ("asphalt", "concrete", "tiles")
_WATER = ("clear water", "turbid water", "conifers", "wet soil")
# What materials 0 to 3 of a class tend to be made of.
_USUAL: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cropland": (_GREEN, _EARTH, _GREEN, _EARTH),
    "dunes": (_EARTH, _EARTH, _EARTH, _EARTH),
    "forest": (_GREEN, _GREEN, _GREEN, _EARTH),
    "highway": (_BUILT, _GREEN, _EARTH, _EARTH),
    "industrial": (_BUILT, _EARTH, _BUILT, _BUILT),
    "lake": (_WATER, _GREEN, _EARTH, _EARTH),
    "orchard": (_GREEN, _EARTH, _GREEN, _EARTH),
    "residential": (_BUILT, _GREEN, _BUILT, _BUILT),
    "river": (_WATER, _GREEN, _EARTH, _GREEN),
    "shrubland": (_GREEN, _EARTH, _GREEN, _EARTH),
}
PREFERENCE = 0.85  # probability that a material is what is usual for its class, rather than anything
REPEAT = 48.0  # of roads, rivers and lakes in a scene: a window of 64 pixels, 38 to 58 at their scale, has one
_PART = 50  # tiles rendered at a time


class _Numbers:
    """Uniform numbers for tiles `ids` of one class: a hash of (seed, kind, name) and the tile's number."""

    def __init__(self, seed: int, kind: str, ids: np.ndarray) -> None:
        self.seed, self.kind, self.ids = seed, kind, ids

    def __call__(self, name: str) -> np.ndarray:
        """(B,) float64 in [0, 1)."""
        bits = hash64_numpy(fold(self.seed, self.kind, name), self.ids)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, name: str, low: float, high: float) -> np.ndarray:
        """(B,) float32 in low..high."""
        return (low + (high - low) * self(name)).astype(np.float32)


def _columns(bands: int) -> list[int]:
    return [BANDS.index(b) for b in ("B04", "B03", "B02")] if bands == 3 else list(range(len(BANDS)))


def _palette(kind: str, numbers: _Numbers, bands: int) -> np.ndarray:
    """(B, 4, bands) float32 reflectance x 10000 of the four materials of each tile."""
    table = np.array([SPECTRA[n] for n in _NAMES], np.float32)[:, _columns(bands)]
    out = []
    for m, usual in enumerate(_USUAL[kind]):
        any_ = (numbers(f"material {m}") * len(_NAMES)).astype(int)
        liked = np.array([_NAMES.index(n) for n in usual])[(numbers(f"usual {m}") * len(usual)).astype(int)]
        chosen = np.where(numbers(f"preference {m}") < PREFERENCE, liked, any_)
        tint = 1 + 0.16 * (np.stack([numbers(f"tint {m} {b}") for b in range(bands)], 1) - 0.5)
        out.append(table[chosen] * tint * numbers.between(f"brightness {m}", 0.8, 1.25)[:, None])
    palette = np.stack(out, 1).astype(np.float32)
    # Structure must be visible: materials 0 and 1 differ by at least two fifths of their brightness.
    light = palette.mean(axis=2)
    close = np.abs(light[:, 0] - light[:, 1]) < 0.4 * light[:, 1]
    palette[:, 0] *= np.where(close, np.where(light[:, 0] < light[:, 1], 0.62, 1.6), 1)[:, None]
    return palette


def _sense(reflectance: np.ndarray, numbers: _Numbers) -> np.ndarray:
    """What a sensor makes of (B, H, W, bands) reflectance: light, haze, contrast, blur, noise; -> (B, bands, H, W)."""
    b, h, w, bands = reflectance.shape
    four = (slice(None), None, None, None)
    image = reflectance * numbers.between("light", 0.8, 1.2)[four]
    across, down = np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    image *= 1 + numbers.between("slope x", -0.2, 0.2)[four] * across[:, None]
    image *= 1 + numbers.between("slope y", -0.2, 0.2)[four] * down[..., None]
    mean = image.mean(axis=(1, 2), keepdims=True)
    image = mean + (image - mean) * numbers.between("contrast", 0.8, 1.15)[four]
    wavelength = np.linspace(1.0, 0.1, len(BANDS), dtype=np.float32)[_columns(bands)]
    image += numbers.between("haze", 0, 350)[four] * wavelength
    blur = numbers.between("blur", 0, 0.6)[four]
    for axis in (1, 2):
        image = (1 - 0.5 * blur) * image + 0.25 * blur * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    image = np.moveaxis(image, 3, 1)
    strength = numbers.between("noise", 20, 80)[:, None, None]
    pixel = np.arange(h * w, dtype=np.int64)
    for band in range(bands):
        keys = pixel + (numbers.ids[:, None] * bands + band) * np.int64(h * w)
        bits = hash64_numpy(fold(numbers.seed, numbers.kind, "noise"), keys)
        # the sum of three uniform numbers is near enough to a Gaussian
        parts = [((bits >> np.uint64(s)) & np.uint64(0xFFFFF)).astype(np.float32) for s in (0, 20, 40)]
        bell = (parts[0] + parts[1] + parts[2]) * np.float32(2.0**-20) - np.float32(1.5)
        image[:, band] += strength * 2 * bell.reshape(b, h, w)
    return _quantise(image, bands)


def _quantise(image: np.ndarray, bands: int) -> np.ndarray:
    if bands == 3:  # a picture for people: 0 to 3,500 becomes 0 to 255
        return np.clip(np.rint(image * (255 / 3500)), 0, 255).astype(np.uint8)
    return np.clip(np.rint(image), 1, 10000).astype(np.uint16)


def _render(kind: str, numbers: _Numbers, x: np.ndarray, y: np.ndarray, repeat: float, bands: int) -> np.ndarray:
    """(B, H, W, bands) reflectance of a class at coordinates x, y (B, H, W), turned, scaled and shifted per tile."""
    angle = numbers.between("angle", 0, 2 * np.pi)[:, None, None]
    scale = numbers.between("scale", 1.1, 1.7)[:, None, None]
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / scale, (np.cos(angle) * y - np.sin(angle) * x) / scale
    salt = (numbers("warp") * 2.0**32).astype(np.uint32)[:, None, None]
    u = u + 3 * (fractal(u, v, salt, 40, 1) - 0.5)  # nothing on the ground is quite straight
    structure: Structure = CLASSES[kind](u, v, Draws(numbers, repeat))
    palette = _palette(kind, numbers, bands)
    tile = np.arange(len(palette))[:, None, None]
    return palette[tile, structure.material] * np.maximum(structure.shade, 0.2).astype(np.float32)[..., None]


def tiles(kind: str, ids: np.ndarray, bands: int = 3, size: int = 64, seed: int = 0) -> np.ndarray:
    """Tiles of one class: (B, bands, size, size), uint8 for 3 bands, uint16 for 13.

    Args:
        kind: the class.
        ids: (B,) numbers of tiles.
        bands: 3 or 13.
        size: of a tile, in pixels.
        seed: of everything.
    """
    numbers = _Numbers(seed, kind, np.asarray(ids, np.int64))
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    x, y = (np.broadcast_to(values, (len(ids), size, size)) for values in (line, line[:, None]))
    repeat = 80.0 if kind == "lake" else 96.0
    return _sense(_render(kind, numbers, x, y, repeat, bands), numbers)


def scene(bands: int = 3, size: int = 1024, seed: int = 0, patch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A landscape of patches of all classes.

    Each patch is drawn as a tile is, its light and noise too, so that a classifier that is right about tiles is right
    about the inside of patches.

    Args:
        bands: 3 or 13.
        size: of the scene, in pixels.
        seed: of everything.
        patch: about the side of a patch, in pixels.

    Returns:
        Image (bands, size, size), and true class numbers (size, size) uint8.
    """
    grid = max(4, size // patch)
    line = np.arange(size, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    salt = np.full((1, 1, 1), fold(seed, "borders") & 0xFFFFFFFF, np.uint32)
    warp = 50 * (np.stack([fractal(x[None], y[None], salt + np.uint32(k), 90, 3)[0] for k in (0, 50)]) - 0.5)
    wx, wy = x + warp[0], y + warp[1]
    cells = np.arange(grid * grid, dtype=np.int64)
    jitter = _Numbers(seed, "patches", cells)
    cx = (cells % grid + 0.2 + 0.6 * jitter("east")) * (size / grid)
    cy = (cells // grid + 0.2 + 0.6 * jitter("north")) * (size / grid)
    nearest = np.zeros((size, size), np.int16)
    best = np.full((size, size), np.inf, np.float32)
    for i in cells:
        distance = (wx - cx[i]) ** 2 + (wy - cy[i]) ** 2
        closer = distance < best
        nearest[closer], best[closer] = i, distance[closer]
    order = np.argsort(hash64_numpy(fold(seed, "classes"), cells), kind="stable")
    kind_of = np.empty(len(cells), np.int64)
    kind_of[order] = np.arange(len(cells)) % len(CLASSES)
    image = np.zeros((3 if bands == 3 else len(BANDS), size, size), np.uint8 if bands == 3 else np.uint16)
    for i in cells:
        ys, xs = np.nonzero(nearest == i)
        if len(ys) == 0:
            continue
        box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        numbers = _Numbers(seed, "scene", np.array([i]))
        kind = list(CLASSES)[kind_of[i]]
        here = x[box][None] - cx[i].astype(np.float32), y[box][None] - cy[i].astype(np.float32)
        sensed = _sense(_render(kind, numbers, *here, REPEAT, bands), numbers)[0]
        image[:, ys, xs] = sensed[:, ys - box[0].start, xs - box[1].start]
    return image, kind_of[nearest].astype(np.uint8)


def generate(root: Path, bands: int, size: int, per_class: int, seed: int, scene_size: int) -> None:
    """Write the tiles to root/tiles/<class>/ and the scene beside them; see `ensure` for the arguments."""
    names = COLOURS if bands == 3 else BANDS
    for number, kind in enumerate(followed(CLASSES, "making the synthetic dataset", "classes")):
        folder = root / "tiles" / kind
        folder.mkdir(parents=True)
        for start in range(0, per_class, _PART):
            ids = np.arange(start, min(start + _PART, per_class))
            for i, tile in zip(ids, tiles(kind, ids, bands, size, seed), strict=True):
                corner = (500_000 + GSD * size * int(i), GSD, 0.0, 5_400_000 - GSD * size * number, 0.0, -GSD)
                write_geotiff(folder / f"{kind}_{i:05d}.tif", tile, corner, CRS, None, names)
    if scene_size:
        image, classes = scene(bands, scene_size, seed)
        corner = (500_000.0, GSD, 0.0, 5_500_000.0, 0.0, -GSD)
        write_geotiff(root / "scene.tif", image, corner, CRS, None, names)
        write_geotiff(root / "scene_classes.tif", classes[None], corner, CRS, None, ["class"])


def ensure(root: Path, bands: int, size: int, per_class: int, seed: int, scene_size: int) -> Path:
    """The folder of tiles below `root`, made if it is not there; whole or not at all, by one process at a time.

    Args:
        root: folder of all such datasets.
        bands: 3 or 13.
        size: of a tile, in pixels.
        per_class: tiles.
        seed: of everything.
        scene_size: in pixels; 0 for no scene.

    Raises:
        UserError: for numbers that cannot be, or where the folder cannot be written.
    """
    if bands not in (3, len(BANDS)):
        raise UserError(f"The synthetic dataset has 3 or 13 bands, not {bands}: type dataset.generate.bands=3 or =13")
    if size < 16 or per_class < 2:
        raise UserError(
            "The synthetic dataset needs tiles of 16 px or more and 2 or more per class: type "
            "dataset.generate.size=64 dataset.generate.per_class=250"
        )
    folder = root / f"v{VERSION}-{bands}band-{size}px-{per_class}per-{scene_size}scene-seed{seed}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_of(folder)):
            if not folder.is_dir():
                begin = time.monotonic()
                part = root / f"{folder.name}.part"
                shutil.rmtree(part, ignore_errors=True)
                generate(part, bands, size, per_class, seed, scene_size)
                part.rename(folder)
                log.info("made the synthetic dataset in %.0f s: %s", time.monotonic() - begin, folder)
    except OSError as error:
        raise write_error(error, root, "dataset.root=FOLDER") from error
    return folder / "tiles"
