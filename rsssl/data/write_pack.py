"""The files of a pack (pack.py), written under temporary names and renamed when they are on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.fingerprint import fingerprint_of
from rsssl.data.ground import Ground
from rsssl.data.names import content_of, name_ids
from rsssl.data.pack import CARD, Pack
from rsssl.data.remote_file import SUMS, checksums
from rsssl.engine.files import json_bytes, sha256, sha256_of, sync
from rsssl.models.card import SensorCard
from rsssl.records import sealed

LAYOUT = 2  # of the files of a pack; packs of the first are still read
CARD_BYTES = 4096  # of card.json, but for sensors of many dozen bands


@dataclass(frozen=True)
class Content:
    """What a pack is written of.

    Args:
        pixels: a file in the pack's folder, which becomes images.bin.
        checksum: its SHA-256.
        moments: a file in the pack's folder, which becomes moments.bin.
        names: of the N images.
        labels: (N,) int64, -1 for an unlabelled image.
        ground: where they lie; None where nothing says it.
        skipped: the reason for every image left out, by its path.
    """

    pixels: Path
    checksum: str
    moments: Path
    names: Sequence[str]
    labels: np.ndarray
    ground: Ground | None
    skipped: dict[str, str]


def write_pack(folder: Path, card: SensorCard, content: Content, about: Mapping[str, Any]) -> Pack:
    """Gives a pack's files their names, the card last, and opens it.

    Args:
        folder: of the pack, where the files of pixels and moments lie already.
        card: of the images.
        content: of the pack.
        about: "sums", "source", "root" and "done", see `Pack`.
    """
    encoded = [os.fsencode(name) for name in content.names]
    texts = {"names.bin": content_of(encoded).tobytes(), "ids.bin": name_ids(encoded).tobytes()}
    if (content.labels >= 0).any():
        texts["labels.bin"] = content.labels.astype("<i8").tobytes()
    texts[SUMS] = checksums(content.pixels, content.pixels.stat().st_size // max(1, len(encoded))).tobytes()
    if content.ground is not None:
        texts["places.bin"] = content.ground.records().tobytes()
    if content.skipped:
        texts["skipped.json"] = json_bytes(content.skipped)
    meta = dict(about) | {"n": len(encoded), "skipped": len(content.skipped)}
    meta["fingerprint"] = fingerprint_of(content.checksum, card.to_dict(), content.labels.tolist(), content.names)
    files = {
        "images.bin": [content.pixels.stat().st_size, content.checksum],
        "moments.bin": [content.moments.stat().st_size, sha256_of(content.moments)],
    }
    temporary = {"images.bin": content.pixels, "moments.bin": content.moments}
    write_files(folder, card, meta, texts, files, temporary)
    return Pack.open(folder)


def write_files(
    folder: Path,
    card: SensorCard,
    meta: Mapping[str, Any],
    texts: dict[str, bytes],
    files: dict[str, list[Any]],
    temporary: dict[str, Path],
) -> None:
    """Writes small files and, when they and the large ones are on the disk under their names, the card.

    Args:
        folder: for them.
        card: of the images; classes that do not fit get a file of their own.
        meta: what else card.json says.
        texts: the content of small files, by their names.
        files: size and SHA-256 of large files, by their names.
        temporary: where these lie now.
    """

    def card_of(card: SensorCard) -> bytes:
        listed = files | {name: [len(text), sha256(text)] for name, text in texts.items()}
        whole = {"layout": LAYOUT, "card": card.to_dict(), **meta, "files": listed}
        return json.dumps(sealed(whole), separators=(",", ":")).encode() + b"\n"

    if len(text := card_of(card)) > CARD_BYTES and card.classes:
        texts["classes.json"] = json.dumps(card.classes).encode()
        text = card_of(replace(card, classes=()))
    for name, small in (*texts.items(), (CARD, text)):
        temporary[name] = folder / f"{name}.tmp"
        temporary[name].write_bytes(small)
    for name, path in temporary.items():  # the card is the last
        sync(path)
        os.replace(path, folder / name)
    sync(folder)
