"""What a pack is known by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rsssl.engine.files import sha256


def fingerprint_of(checksum: str, card: Mapping[str, Any], labels: Sequence[int], names: Sequence[str]) -> str:
    """The hash of all content, as one JSON list: whatever the dataset is called, the same images have the same.

    Args:
        checksum: of the pixels.
        card: as a dict.
        labels: of the N images.
        names: of them.
    """
    shape = {key: value for key, value in card.items() if key != "name"}
    parts = (json.dumps(part) for part in (checksum, shape, list(labels), list(names)))
    return sha256(f"[{', '.join(parts)}]".encode())
