"""What is known of a block of windows, as it is kept until the map is whole."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Classified:
    """What is known of a block.

    Args:
        probabilities: (rows, cols, K) float32.
        weight: (rows, cols), the valid share of each window, 0 for one that was not looked at.
        valid: (h, w) bool of the block's own pixels.
        unlike: (rows, cols, 2) how unlike each window is to what was learnt from; None where nobody asked.
    """

    probabilities: np.ndarray
    weight: np.ndarray
    valid: np.ndarray
    unlike: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        file = io.BytesIO()
        bits = np.zeros(0, np.uint8) if self.valid.all() else np.packbits(self.valid)
        shape = np.array(self.valid.shape)
        arrays = {"probabilities": self.probabilities, "weight": self.weight, "shape": shape, "bits": bits}
        arrays |= {} if self.unlike is None else {"unlike": self.unlike}
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Classified:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            h, w = arrays["shape"].tolist()
            bits = arrays["bits"]
            valid = np.unpackbits(bits, count=h * w).reshape(h, w).astype(bool) if len(bits) else np.ones((h, w), bool)
            unlike = arrays.get("unlike")
            return cls(arrays["probabilities"], arrays["weight"], valid, unlike)
