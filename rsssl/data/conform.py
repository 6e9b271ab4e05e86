"""What every image of one dataset must look like, and the function that makes it so."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.catalog import Catalog
from rsssl.data.dataset import Dataset
from rsssl.data.raster import BadImage, Raster, read
from rsssl.errors import UserError
from rsssl.rng import permutation

log = logging.getLogger(__name__)

MIN_SIDE, MAX_ASPECT, MAX_SCALE = 8, 8, 4
SAMPLE = 128  # images looked at to find sizes, types and ranges that the config leaves open
_DTYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "float32": "float32", "float64": "float32"}
FLOAT_NODATA = float(np.finfo(np.float32).min)  # stands for NaN and infinity in float packs


@dataclass(frozen=True)
class Form:
    """The common form of a dataset's images: what a pack stores."""

    bands: tuple[str, ...]  # names of the bands kept
    in_file: int  # bands in each file
    keep: tuple[int, ...]  # indices of the bands kept, in order
    dtype: str
    size: tuple[int, int]  # (height, width)
    nodata: float | None
    low: tuple[float, ...]
    high: tuple[float, ...]


def conform(path: str | Path, form: Form, raster: Raster | None = None) -> tuple[np.ndarray, str]:
    """Read one image and bring it into `form`: (C, H, W), and what was done to it ("", "grey", "resized", ...).

    raster: what the file holds, where it has been read already.

    Raises BadImage, saying what was found and what was expected.
    """
    raster = read(path, form.in_file) if raster is None else raster
    c, h, w = raster.pixels.shape
    dtype = _DTYPES.get(str(raster.pixels.dtype))
    if dtype != form.dtype:
        raise BadImage(path, f"its pixels are {raster.pixels.dtype}, those of the dataset {form.dtype}")
    if c != form.in_file:
        raise BadImage(path, f"it has {c} bands, expected {form.in_file}")
    if min(h, w) < MIN_SIDE:
        raise BadImage(path, f"{h}x{w} px is too small (at least {MIN_SIDE}x{MIN_SIDE})")
    if max(h, w) > MAX_ASPECT * min(h, w):
        raise BadImage(path, f"{h}x{w} px is too elongated (at most {MAX_ASPECT}:1)")
    pixels = raster.pixels if form.keep == tuple(range(c)) else raster.pixels[list(form.keep)]
    pixels = _common_nodata(path, pixels, raster.nodata, form)
    done = [raster.converted] if raster.converted else []
    if (h, w) != form.size:
        pixels = resize(pixels, form.size, form.nodata)
        done.append("resized")
    return pixels, "+".join(done)


def _common_nodata(path: str | Path, pixels: np.ndarray, declared: float | None, form: Form) -> np.ndarray:
    """One value for all that means nothing: the form's nodata."""
    if form.dtype == "float32":
        missing = ~np.isfinite(pixels)
        if declared is not None and np.isfinite(declared):
            missing |= pixels == pixels.dtype.type(declared)
        with np.errstate(over="ignore"):
            pixels = pixels.astype(np.float32)
        missing |= ~np.isfinite(pixels)
        return np.where(missing, np.float32(form.nodata or 0.0), pixels) if missing.any() else pixels
    if declared is None or declared == form.nodata or not _fits(declared, form.dtype):
        return pixels
    missing = pixels == pixels.dtype.type(declared)
    if not missing.any():
        return pixels
    if form.nodata is None:
        raise BadImage(
            path,
            f"it declares nodata {declared:g}, the other files none; dataset.nodata={declared:g} "
            "makes that the nodata value of all",
        )
    return np.where(missing, pixels.dtype.type(form.nodata), pixels)


def _fits(value: float, dtype: str) -> bool:
    info = np.iinfo(dtype)
    return float(value).is_integer() and info.min <= value <= info.max


def valid_mask(pixels: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """True where a pixel means something; None when all do (no nodata value, or none of it here)."""
    if nodata is None:
        return None
    mask = pixels != pixels.dtype.type(nodata)
    return None if mask.all() else mask


def resize(pixels: np.ndarray, size: tuple[int, int], nodata: float | None = None) -> np.ndarray:
    """Antialiased bilinear resize of (C, H, W) to (C, *size), any integer or float type, in float arithmetic.

    Nodata does not bleed: each output pixel averages the valid pixels under it, and is nodata when less than half of
    its weight is valid.
    """
    from PIL import Image

    def scale(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))

    mask = valid_mask(pixels, nodata)
    out = np.empty((len(pixels), *size), pixels.dtype)
    for band in range(len(pixels)):
        values = pixels[band].astype(np.float32)
        if mask is None or mask[band].all():
            result, missing = scale(values), None
        else:
            weight = scale(mask[band].astype(np.float32))
            result = scale(np.where(mask[band], values, 0)) / np.maximum(weight, 1e-6)
            missing = weight < 0.5
        if pixels.dtype.kind != "f":
            info = np.iinfo(pixels.dtype)
            result = np.clip(np.rint(result), info.min, info.max)
        out[band] = result
        if missing is not None:
            out[band][missing] = pixels.dtype.type(nodata)
    return out


def find_form(dataset: Dataset, catalog: Catalog) -> Form:
    """The dataset's form: from its config, and what that leaves open from a sample of the files.

    Raises UserError when the sample has no usable image or the config does not fit the files.
    """
    rasters, bad = _sample(dataset, catalog)
    if not rasters:
        raise UserError(
            f"None of the first {len(bad)} images tried of {catalog.root} can be used, e.g. {bad[0]}. "
            "Check the folder, or type dataset.root=FOLDER"
        )
    _refuse_mixture(catalog, rasters)
    expected = len(dataset.bands) if dataset.bands is not None else None
    counts = Counter(len(r.pixels) for r in rasters)
    in_file = expected or counts.most_common(1)[0][0]
    if in_file not in counts:
        raise UserError(
            f"The images of {catalog.root} have {counts.most_common(1)[0][0]} bands, "
            f"dataset={dataset.name} expects {expected} ({', '.join(dataset.bands or ())}). "
            "For other images type dataset=folder or dataset.bands=[...]"
        )
    rasters = [r for r in rasters if len(r.pixels) == in_file]
    kinds = Counter(str(r.pixels.dtype) for r in rasters)
    found = kinds.most_common(1)[0][0]
    if found not in _DTYPES:
        raise UserError(
            f"The pixels of {catalog.root} are {found}; uint8, uint16, int16 and floats can be used. "
            "Convert them first: gdal_translate -ot UInt16 IN OUT"
        )
    rasters = [r for r in rasters if str(r.pixels.dtype) == found]
    dtype = _DTYPES[found]
    names = dataset.bands if dataset.bands is not None else _names(rasters[0], in_file, dtype)
    select = dataset.select if dataset.select is not None else names
    for band in select:
        if band not in names:
            raise UserError(
                f"dataset.select names {band}, which is not a band of these images: type "
                f"dataset.select=[...] with names from {', '.join(names)}"
            )
    keep = tuple(tuple(names).index(b) for b in select)
    nodata = _nodata(dataset, rasters, dtype)
    low, high = _valid_range(dataset, rasters, keep, dtype, nodata, tuple(select))
    return Form(tuple(select), in_file, keep, dtype, _size(dataset, catalog, rasters), nodata, low, high)


def _sample(dataset: Dataset, catalog: Catalog) -> tuple[list[Raster], list[str]]:
    rasters, bad = [], []
    expected = len(dataset.bands) if dataset.bands is not None else None
    for i in permutation(0, len(catalog))[:SAMPLE]:  # not the first files: those are one class
        try:
            rasters.append(read(catalog.root / catalog.paths[i], expected))
        except BadImage as error:
            bad.append(str(error))
    return rasters, bad


def _refuse_mixture(catalog: Catalog, rasters: Sequence[Raster]) -> None:
    """Stops when no kind of image makes up half of the sample: then nobody can say which is the odd one out."""
    kinds = Counter((len(r.pixels), str(r.pixels.dtype)) for r in rasters)
    if 2 * kinds.most_common(1)[0][1] < len(rasters):
        found = ", ".join(f"{n} with {c} bands of {dtype}" for (c, dtype), n in kinds.most_common())
        raise UserError(
            f"The images of {catalog.root} are of different kinds ({found}). Put each kind into a folder of "
            "its own and type dataset.root=FOLDER"
        )


def _names(raster: Raster, n: int, dtype: str) -> tuple[str, ...]:
    if len(raster.names) == n and all(raster.names) and len(set(raster.names)) == n:
        return raster.names
    return ("red", "green", "blue") if n == 3 and dtype == "uint8" else tuple(f"band{i + 1}" for i in range(n))


def _nodata(dataset: Dataset, rasters: Sequence[Raster], dtype: str) -> float | None:
    if dtype == "float32":
        return FLOAT_NODATA
    if dataset.nodata is not None:
        if not _fits(dataset.nodata, dtype):
            raise UserError(f"dataset.nodata={dataset.nodata:g} is no {dtype} value: type dataset.nodata=null")
        return float(dataset.nodata)
    declared = Counter(r.nodata for r in rasters if r.nodata is not None and _fits(r.nodata, dtype))
    return float(declared.most_common(1)[0][0]) if declared else None


def _size(dataset: Dataset, catalog: Catalog, rasters: Sequence[Raster]) -> tuple[int, int]:
    if dataset.size is not None:
        return int(dataset.size), int(dataset.size)
    shapes = [r.pixels.shape[1:] for r in rasters]
    sizes = Counter(s for s in shapes if min(s) >= MIN_SIDE and max(s) <= MAX_ASPECT * min(s))
    if not sizes:
        raise UserError(
            f"The images of {catalog.root} are smaller than {MIN_SIDE}x{MIN_SIDE} px or more elongated "
            f"than {MAX_ASPECT}:1, e.g. {catalog.paths[0]}. Type dataset.root=FOLDER"
        )
    if len(sizes) == 1:
        return next(iter(sizes))
    common: Any = sizes.most_common(1)[0][0]
    if dataset.native_size is not None:
        common = (int(dataset.native_size), int(dataset.native_size))
    small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    if max(large) > MAX_SCALE * min(small):
        raise UserError(
            f"The images of {catalog.root} range from {small[0]}x{small[1]} to {large[0]}x{large[1]} px: "
            "too different to be resized to one size. Cut the large scenes into tiles (gdal_retile.py -ps "
            "256 256 -targetDir TILES SCENE.tif), or say what they become: dataset.size=256"
        )
    log.warning(
        "%s: the images have %d sizes; all are resized to %dx%d px. dataset.size=N sets another size",
        catalog.root,
        len(sizes),
        *common,
    )
    return common


def _valid_range(
    dataset: Dataset,
    rasters: Sequence[Raster],
    keep: tuple[int, ...],
    dtype: str,
    nodata: float | None,
    select: tuple[str, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if dataset.valid_range is not None:
        pairs = np.array(dataset.valid_range, dtype=np.float64)
        if pairs.shape == (2,):
            pairs = np.tile(pairs, (len(keep), 1))
        if len(pairs) == len(rasters[0].pixels) != len(keep):
            pairs = pairs[list(keep)]  # one for each band of the files, of which some are selected
        if pairs.shape != (len(keep), 2) or (pairs[:, 1] <= pairs[:, 0]).any():
            raise UserError(
                f"dataset.valid_range={dataset.valid_range} is neither [low, high] nor a pair for each of "
                f"{', '.join(select)}: type dataset.valid_range=[0,9999]"
            )
        return tuple(pairs[:, 0].tolist()), tuple(pairs[:, 1].tolist())
    if dtype == "uint8":
        return (0.0,) * len(keep), (255.0,) * len(keep)
    low, high = [], []
    for band in keep:
        values = np.concatenate([r.pixels[band].ravel()[:: 1 + r.pixels[band].size // 16384] for r in rasters])
        ok = np.isfinite(values)
        for missing in {nodata, *(r.nodata for r in rasters)} - {None}:
            ok &= values != missing
        lo, hi = np.percentile(values[ok].astype(np.float64), (0.1, 99.9)).tolist() if ok.any() else (0.0, 1.0)
        low.append(lo)
        high.append(hi if hi > lo else lo + 1.0)
    log.warning(
        "%s: valid range taken from %d images (0.1 to 99.9 percentiles): %s. dataset.valid_range sets it",
        dataset.name,
        len(rasters),
        ", ".join(f"{b} {lo:.4g}..{hi:.4g}" for b, lo, hi in zip(select, low, high, strict=True)),
    )
    return tuple(low), tuple(high)
