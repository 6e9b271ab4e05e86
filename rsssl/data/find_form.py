"""The common form of a dataset's images: from its config, and what that leaves open from a sample of the files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from rsssl.data.catalog import Catalog
from rsssl.data.conform import DTYPES, FLOAT_NODATA, MAX_ASPECT, MIN_SIDE, Form, fits
from rsssl.data.dataset import Dataset
from rsssl.data.raster import BadImage, Raster
from rsssl.data.scene_windows import SceneCatalog
from rsssl.errors import UserError
from rsssl.models.bands import COLOURS
from rsssl.rng import Order

log = logging.getLogger(__name__)

MAX_SCALE = 4  # between the smallest and the largest image that are resized to one size
SAMPLE, SAMPLE_BYTES = 128, 1 << 30  # images that are looked at, and their pixels, at most
LARGEST = 2048  # pixels of the shorter side, from which on an image is a scene and no tile
FEW, SCENE = 16, 300  # so few images without classes, of so many pixels a side, are scenes too
Value = TypeVar("Value", bound=Hashable)


def find_form(dataset: Dataset, catalog: Catalog) -> Form:
    """The form that all images of a dataset are brought into.

    Raises:
        UserError: when the sample has no usable image or the config does not fit the files.
    """
    expected = None if dataset.bands is None else len(dataset.bands)
    rasters = _sample(catalog, expected)
    band_counts = {len(r.pixels) for r in rasters}
    in_file = expected or _most_common(len(r.pixels) for r in rasters)
    if in_file not in band_counts:
        raise UserError(
            f"The images of {catalog.root} have {_most_common(len(r.pixels) for r in rasters)} bands, "
            f"dataset={dataset.name} expects {expected} ({', '.join(dataset.bands or ())}). "
            "For other images type dataset=folder or dataset.bands=[...]"
        )
    rasters = [r for r in rasters if len(r.pixels) == in_file]
    in_files = _most_common(str(r.pixels.dtype) for r in rasters)
    if in_files not in DTYPES:
        raise UserError(
            f"The pixels of {catalog.root} are {in_files}; uint8, uint16, int16 and floats can be used. "
            "Convert them first: gdal_translate -ot UInt16 IN OUT"
        )
    rasters = [r for r in rasters if str(r.pixels.dtype) == in_files]
    dtype = DTYPES[in_files]
    names = dataset.bands if dataset.bands is not None else _names(rasters[0], dtype, isinstance(catalog, SceneCatalog))
    select = tuple(dataset.select if dataset.select is not None else names)
    for band in select:
        if band not in names:
            raise UserError(
                f"dataset.select names {band}, which is not a band of these images: type "
                f"dataset.select=[...] with names from {', '.join(names)}"
            )
    keep = tuple(tuple(names).index(band) for band in select)
    nodata = _nodata(dataset, rasters, dtype)
    if dataset.valid_range is not None:
        low, high = _given_range(dataset, len(rasters[0].pixels), keep, select)
    elif dtype == "uint8":
        low, high = (0.0,) * len(keep), (255.0,) * len(keep)
    else:
        low, high = zip(*(_percentiles(rasters, band, nodata) for band in keep), strict=True)
        ranges = ", ".join(f"{b} {lo:.4g}..{hi:.4g}" for b, lo, hi in zip(select, low, high, strict=True))
        text = "%s: valid range taken from %d images (0.1 to 99.9 percentiles): %s. dataset.valid_range sets it"
        log.warning(text, dataset.name, len(rasters), ranges)
    return Form(select, in_file, keep, dtype, _size(dataset, catalog, rasters), nodata, low, high)


def _most_common(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _sample(catalog: Catalog, bands: int | None) -> list[Raster]:
    """Some usable images. UserError where there are none, or where they are of many kinds.

    When no kind makes up half of the sample, nobody can say which images are the exception.
    """
    rasters, bad = list[Raster](), list[str]()
    rows = Order(0, len(catalog))[:SAMPLE].tolist()  # not the first files: those are one class
    for raster in catalog.rasters(rows, bands):
        if isinstance(raster, BadImage):
            bad.append(str(raster))
        else:
            rasters.append(raster)
        if sum(r.pixels.nbytes for r in rasters) > SAMPLE_BYTES:
            break
    if not rasters:
        raise UserError(
            f"None of the first {len(bad)} images tried of {catalog.root} can be used, e.g. {bad[0]}. "
            "Check the folder, or type dataset.root=FOLDER"
        )
    kinds = Counter((len(r.pixels), str(r.pixels.dtype)) for r in rasters).most_common()
    if 2 * kinds[0][1] < len(rasters):
        listed = ", ".join(f"{n} with {c} bands of {dtype}" for (c, dtype), n in kinds)
        raise UserError(
            f"The images of {catalog.root} are of different kinds ({listed}). Put each kind into a folder of "
            "its own and type dataset.root=FOLDER"
        )
    return rasters


def _names(raster: Raster, dtype: str, scenes: bool) -> tuple[str, ...]:
    """The bands' names: the file's, if all have one of their own. Three of a byte are red, green and blue, and in
    scenes four are those and the near infrared, as aerial cameras deliver them."""
    n = len(raster.pixels)
    if len(raster.names) == n and all(raster.names) and len(set(raster.names)) == n:
        return raster.names
    if n == 4 and dtype == "uint8" and scenes:
        log.warning("the bands have no names: taken to be red, green, blue, nir. dataset.bands=[...] names them")
        return (*COLOURS, "nir")
    return COLOURS if n == 3 and dtype == "uint8" else tuple(f"band{i + 1}" for i in range(n))


def _nodata(dataset: Dataset, rasters: Sequence[Raster], dtype: str) -> float | None:
    if dtype == "float32":
        return FLOAT_NODATA
    if (given := dataset.given_nodata()) is not None:
        if not fits(given, dtype):
            raise UserError(f"dataset.nodata={given:g} is no {dtype} value: type dataset.nodata=null")
        return float(given)
    declared = [r.nodata for r in rasters if r.nodata is not None and fits(r.nodata, dtype)]
    return float(_most_common(declared)) if declared else None


def _size(dataset: Dataset, catalog: Catalog, rasters: Sequence[Raster]) -> tuple[int, int]:
    """(height, width) that all images get."""
    if dataset.size is not None:
        return int(dataset.size), int(dataset.size)
    shapes = [(int(h), int(w)) for h, w in (r.pixels.shape[1:] for r in rasters)]
    refuse_scenes(catalog, [min(shape) for shape in shapes])
    sizes = [s for s in shapes if min(s) >= MIN_SIDE and max(s) <= MAX_ASPECT * min(s)]
    if not sizes:
        raise UserError(
            f"The images of {catalog.root} are smaller than {MIN_SIDE}x{MIN_SIDE} px or more elongated "
            f"than {MAX_ASPECT}:1, e.g. {catalog.paths[0]}. Type dataset.root=FOLDER"
        )
    if len(set(sizes)) == 1:
        return sizes[0]
    common = _most_common(sizes)
    if dataset.native_size is not None:
        common = (int(dataset.native_size), int(dataset.native_size))
    small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    if max(large) > MAX_SCALE * min(small):
        raise UserError(
            f"The images of {catalog.root} range from {small[0]}x{small[1]} to {large[0]}x{large[1]} px: "
            "too different to be resized to one size. Cut the large scenes into tiles (gdal_retile.py -ps "
            "256 256 -targetDir TILES SCENE.tif), or say what they become: dataset.size=256"
        )
    text = "%s: the images have %d sizes; all are resized to %dx%d px. dataset.size=N sets another size"
    log.warning(text, catalog.root, len(set(sizes)), *common)
    return common


def refuse_scenes(catalog: Catalog, sides: list[int]) -> None:
    """Raises UserError for images that look like scenes to be cut into windows, by their shorter sides in pixels."""
    few = len(catalog) < FEW and not (catalog.labels >= 0).any() and min(sides) >= SCENE
    if not isinstance(catalog, SceneCatalog) and (few or max(sides) > LARGEST):
        raise UserError(
            f"the {len(catalog)} images of {catalog.root}, up to {max(sides)} pixels a side, look like scenes: for "
            f"windows of them type dataset=scene dataset.scenes={catalog.root}, or dataset.size=256 to shrink each to "
            "one tile"
        )


def _given_range(
    dataset: Dataset, in_file: int, keep: tuple[int, ...], select: tuple[str, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where the config's valid range begins and ends, for each of the bands kept."""
    pairs = np.array(dataset.valid_range, dtype=np.float64)
    if pairs.shape == (2,):
        pairs = np.tile(pairs, (len(keep), 1))
    if len(pairs) == in_file != len(keep):
        pairs = pairs[list(keep)]  # one for each band of the files, of which some are selected
    if pairs.shape != (len(keep), 2) or (pairs[:, 1] <= pairs[:, 0]).any():
        raise UserError(
            f"dataset.valid_range={dataset.valid_range} is neither [low, high] nor a pair for each of "
            f"{', '.join(select)}: type dataset.valid_range=[0,9999]"
        )
    return tuple(pairs[:, 0].tolist()), tuple(pairs[:, 1].tolist())


def _percentiles(rasters: Sequence[Raster], band: int, nodata: float | None) -> tuple[float, float]:
    """The 0.1 and 99.9 percentiles of a band's valid pixels, of about 16,384 from each image."""
    values = np.concatenate([r.pixels[band].ravel()[:: 1 + r.pixels[band].size // 16384] for r in rasters])
    valid = np.isfinite(values)
    for missing in {nodata, *(r.nodata for r in rasters)} - {None}:
        valid &= values != missing
    if not valid.any():
        return 0.0, 1.0
    low, high = np.percentile(values[valid].astype(np.float64), (0.1, 99.9)).tolist()
    return low, high if high > low else low + 1.0
