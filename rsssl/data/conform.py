"""The common form of one dataset's images, and the function that brings an image into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsssl.data.raster import BadImage, Raster, read

MIN_SIDE, MAX_ASPECT = 8, 8
FLOAT_NODATA = float(np.finfo(np.float32).min)  # stands for NaN and infinity in float packs
DTYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "float32": "float32", "float64": "float32"}


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


def conform(path: str | Path, form: Form, raster: Raster | BadImage | None = None) -> tuple[np.ndarray, str]:
    """Read one image and bring it into a form.

    Args:
        path: the file.
        form: what the image is to become.
        raster: what the file holds, or why it cannot be used, where it has been read already.

    Returns:
        (C, H, W), and what was done to the image ("", "grey", "resized", "grey+resized", ...).

    Raises:
        BadImage: saying what the file holds and what was expected.
    """
    raster = read(path, form.in_file) if raster is None else raster
    if isinstance(raster, BadImage):
        raise raster
    c, h, w = raster.pixels.shape
    if DTYPES.get(str(raster.pixels.dtype)) != form.dtype:
        raise BadImage(path, f"its pixels are {raster.pixels.dtype}, those of the dataset {form.dtype}")
    if c != form.in_file:
        raise BadImage(path, f"it has {c} bands, expected {form.in_file}")
    if min(h, w) < MIN_SIDE:
        raise BadImage(path, f"{h}x{w} px is too small (at least {MIN_SIDE}x{MIN_SIDE})")
    if max(h, w) > MAX_ASPECT * min(h, w):
        raise BadImage(path, f"{h}x{w} px is too elongated (at most {MAX_ASPECT}:1)")
    pixels = raster.pixels if form.keep == tuple(range(c)) else raster.pixels[list(form.keep)]
    pixels = _common_nodata(path, pixels, raster.nodata, form)
    if (h, w) == form.size:
        return pixels, raster.converted
    return resize(pixels, form.size, form.nodata), "+".join(filter(None, (raster.converted, "resized")))


def _common_nodata(path: str | Path, pixels: np.ndarray, declared: float | None, form: Form) -> np.ndarray:
    """The pixels with one value, the form's nodata, for all that mean nothing."""
    if form.dtype == "float32":
        missing = ~np.isfinite(pixels)
        if declared is not None and np.isfinite(declared):
            missing |= pixels == pixels.dtype.type(declared)
        with np.errstate(over="ignore"):
            pixels = pixels.astype(np.float32)
        missing |= ~np.isfinite(pixels)
        return np.where(missing, np.float32(form.nodata or 0.0), pixels) if missing.any() else pixels
    if declared is None or declared == form.nodata or not fits(declared, form.dtype):
        return pixels
    missing = pixels == pixels.dtype.type(declared)
    if not missing.any():
        return pixels
    if form.nodata is None:
        advice = f"dataset.nodata={declared:g} makes that the nodata value of all"
        raise BadImage(path, f"it declares nodata {declared:g}, the other files none; {advice}")
    return np.where(missing, pixels.dtype.type(form.nodata), pixels)


def fits(value: float, dtype: str | np.dtype) -> bool:
    """Whether an integer type can hold the value."""
    info = np.iinfo(dtype)
    return float(value).is_integer() and info.min <= value <= info.max


def valid_mask(pixels: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """True where a pixel means something; None when all do (no nodata value, or none of it here)."""
    if nodata is None:
        return None
    mask = pixels != pixels.dtype.type(nodata)
    return None if mask.all() else mask


def resize(pixels: np.ndarray, size: tuple[int, int], nodata: float | None = None) -> np.ndarray:
    """Antialiased bilinear resize in float arithmetic.

    Nodata does not bleed into its neighbours: each output pixel averages the valid pixels under it, and is nodata when
    less than half of its weight is valid.

    Args:
        pixels: (C, H, W) of any integer or float type.
        size: (height, width) of the result, (C, *size).
        nodata: the value that means "nothing here".
    """
    from PIL import Image

    def scale(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))

    mask = valid_mask(pixels, nodata)
    out = np.empty((len(pixels), *size), pixels.dtype)
    for band in range(len(pixels)):
        values, weight = pixels[band].astype(np.float32), None
        if mask is None or mask[band].all():
            result = scale(values)
        else:
            weight = scale(mask[band].astype(np.float32))
            result = scale(np.where(mask[band], values, 0)) / np.maximum(weight, 1e-6)
        if pixels.dtype.kind != "f":
            info = np.iinfo(pixels.dtype)
            result = np.clip(np.rint(result), info.min, info.max)
        out[band] = result
        if weight is not None:
            out[band][weight < 0.5] = pixels.dtype.type(nodata)
    return out
