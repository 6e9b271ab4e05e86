"""The sensor card: what the numbers in the pixels mean. It is saved with every pack and every weights file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class SensorCard:
    """Bands, valid range and statistics of one dataset's images.

    A pixel x of band b means (x - low[b]) / (high[b] - low[b]), clipped to 0..1, unless it equals `nodata`.

    Args:
        name: of the dataset.
        bands: names, in the order of the pixels' bands.
        dtype: type of the pixels, one of DTYPES.
        low: lower end of each band's valid range, in the pixels' own units.
        high: upper end of each band's valid range, in the pixels' own units.
        nodata: the value of pixels without data, if there is one.
        mean: of each band's valid pixels, in units of 0..1.
        std: standard deviation of each band's valid pixels, in units of 0..1; that of a constant band is recorded as 1,
            so that dividing by it does no harm.
        classes: names of the classes.
        size: (height, width) in pixels.
        gsd: ground sampling distance, metres per pixel.

    Raises:
        ValueError: when a value is impossible.
    """

    name: str
    bands: tuple[str, ...]
    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    nodata: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    size: tuple[int, int]
    gsd: float | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        for field in ("low", "high", "mean", "std"):
            if len(getattr(self, field)) != len(self.bands):
                raise ValueError(f"{field} has {len(getattr(self, field))} values for {len(self.bands)} bands")
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in getattr(self, field)):
                raise ValueError(f"{field} must be finite numbers: {getattr(self, field)}")
        if not all(type(n) is int and n > 0 for n in self.size) or len(self.size) != 2:
            raise ValueError(f"size must be height and width in pixels: {self.size}")
        if not all(isinstance(text, str) for text in (self.name, *self.bands, *self.classes)):
            raise ValueError("name, bands and classes must be texts")
        if any(hi <= lo for lo, hi in zip(self.low, self.high, strict=True)):
            raise ValueError(f"valid range is empty: low {self.low}, high {self.high}")
        if any(not s > 0 for s in self.std):
            raise ValueError(f"std must be positive: {self.std}")

    @property
    def n_bands(self) -> int:
        """The number of bands."""
        return len(self.bands)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SensorCard:
        """The inverse of `to_dict`; unknown keys raise ValueError."""
        if unknown := set(values) - {f.name for f in dataclasses.fields(cls)}:
            raise ValueError(f"not a sensor card: unknown keys {sorted(unknown)}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)
