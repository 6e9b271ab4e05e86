"""Backbones that exist: where their weights lie, and whether they are for these images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsssl.data.prepared import Data
from rsssl.engine.store import Store
from rsssl.evaluation.features import Weights
from rsssl.models.backbone import describe_backbone, read_backbone
from rsssl.models.weights import AGAIN, TENSORS
from rsssl.networks.files import check_bands, preprocess_of
from rsssl.networks.load import find_weights
from rsssl.networks.recipe import NETWORK
from rsssl.records import digest, parse_json


def from_file(file: Path, data: Data, record: dict[str, Any] | None = None) -> Weights:
    """The backbone kept in a file, with its sensor card.

    Raises:
        UserError: when the weights were made for other bands than the dataset has.
    """
    spec, metadata = describe_backbone(file)  # the network itself is built when features are missing
    trained = preprocess_of(file, metadata)
    card = data.pack.card
    check_bands(file, trained.card.bands, card)
    start = parse_json(metadata.get("inputs", "{}"), file, AGAIN).get("start")
    record = record or {"artifact": file.parent.name, "folder": str(file.parent), "reused": True}
    return Weights(
        build=lambda: read_backbone(file)[0],
        spec={k: spec[k] for k in NETWORK if k in spec},
        hash=digest([spec, metadata.get(TENSORS)])[:16],
        preprocess=trained.of(card),
        record=record | {"start": start} if start else record,
        file=file,
        start=start,
    )


def find_checkpoint(path: str, store: Store, key: str = "checkpoint") -> Path:
    """The weights' file for `checkpoint=` (or another key): itself, or that of a run folder, of any folder with one, of
    a name in the store.

    Raises:
        UserError: when there is none, or more than one to choose from.
    """
    return find_weights(path, store.root / "pretrain", key)
