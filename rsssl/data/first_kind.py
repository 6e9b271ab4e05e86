"""Packs of the first kind, made before the version 2 of the layout: paths, labels and reasons stand in their card."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.fingerprint import fingerprint_of
from rsssl.data.ground import Ground
from rsssl.data.names import content_of, name_ids
from rsssl.engine.files import sha256


def read(folder: Path, meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
    """What a card of the second kind would say, and the contents of the files that would lie beside it.

    Args:
        folder: of the pack.
        meta: its card.json.

    Raises:
        ValueError: when it is not what was written.
    """
    if meta["fingerprint"] != sha256(json.dumps([meta[k] for k in ("sha256", "card", "labels", "paths")]).encode()):
        raise ValueError("card.json is not what was written")
    paths = [os.fsencode(path) for path in meta["paths"]]
    n = len(paths)
    moments = np.load(folder / "moments.npy", mmap_mode="r").view(np.ndarray)
    if moments.shape != (n, len(meta["card"]["bands"]), 3):
        raise ValueError("moments.npy is of other images")
    names, labels = content_of(paths), np.array(meta["labels"], np.int64)
    ground = Ground.load(folder / "ground.npz") if (folder / "ground.npz").is_file() else None
    pixels = np.prod([n, len(meta["card"]["bands"]), *meta["card"]["size"]]) * np.dtype(meta["card"]["dtype"]).itemsize
    card = {key: meta[key] for key in ("card", "done", "source", "root")}
    card |= {"n": n, "labelled": bool((labels >= 0).any()), "skipped": len(meta["skipped"])}
    card["fingerprint"] = fingerprint_of(meta["sha256"], meta["card"], meta["labels"], meta["paths"])
    card["sums"] = moments.sum(axis=0).tolist()
    card["files"] = {"images.bin": [int(pixels), meta["sha256"]]}
    return card, {
        "names": lambda: names,
        "ids": lambda: name_ids(paths),
        "labels": lambda: labels,
        "moments": lambda: moments,
        "ground": lambda: ground,
        "skipped": lambda: meta["skipped"],
    }
