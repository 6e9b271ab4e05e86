"""Datasets as the tasks use them: packed once, split, with the statistics of the pool."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rsssl.data.catalog import source_listing
from rsssl.data.dataset import Dataset
from rsssl.data.pack import PACK_VERSION, Pack, mean_std, pack
from rsssl.data.split import Split, split
from rsssl.engine.files import write_json
from rsssl.engine.ranks import rank
from rsssl.engine.store import Store, digest
from rsssl.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """A packed dataset with its fixed test set, and the per-band mean and std (0..1 units) of its pool."""

    dataset: Dataset
    pack: Pack
    split: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Keys of a dataset that cannot change the packed pixels.
NOT_IN_THE_PACK = ("split_seed", "test_fraction", "url", "md5", "homepage", "download", "generate")


def load(dataset: Dataset, store: Store, workers: int | None, protocol: str = "clean") -> Data:
    """Packs the dataset unless the store has it, and draws its test set.

    Args:
        dataset: the images.
        store: where the pack is kept; what was opened stays open there for the other jobs of a sweep.
        workers: processes that decode images; None for as many as there are cores.
        protocol: with "validation" the test set stays closed: the pool is divided once more, and a part of it plays the
            test set.

    Raises:
        UserError: when the imagery is missing or unusable, naming what to type.
    """
    catalog = dataset.catalog()
    settings = {k: v for k, v in asdict(dataset).items() if k not in NOT_IN_THE_PACK} | {"root": str(catalog.root)}
    inputs = {"settings": settings, "listing": source_listing(catalog), "version": PACK_VERSION}
    division = [dataset.split_seed, dataset.test_fraction, protocol == "validation"]
    key = digest({"pack": inputs, "split": division})
    if key not in store.opened:
        artifact = store.get("pack", inputs, lambda folder: pack(dataset, folder, workers))
        packed = Pack.open(artifact.folder)
        report_skipped(packed)
        divided = split(packed.paths, packed.labels, dataset.split_seed, dataset.test_fraction)
        if protocol == "validation":
            divided = within_pool(packed, divided, dataset)
        save_split(artifact.folder, packed, divided)
        store.opened[key] = Data(dataset, packed, divided, *statistics((packed, divided.pool)))
    data: Data = store.opened[key]
    return data


def within_pool(packed: Pack, division: Split, dataset: Dataset) -> Split:
    """The same division once more, of the pool alone; the test images are in neither part."""
    pool = division.pool
    inner = split([packed.paths[i] for i in pool], packed.labels[pool], dataset.split_seed, dataset.test_fraction)
    return Split(pool[inner.test], pool[inner.pool], inner.hash)


def report_skipped(packed: Pack) -> None:
    """Says once what was left out while packing (`dataset.on_error=skip`)."""
    if packed.skipped:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(packed.skipped.items())[:5])
        log.warning("%d unusable images were left out (all are listed in card.json): %s", len(packed.skipped), shown)


def save_split(folder: Path, packed: Pack, division: Split) -> None:
    """The test set by its paths, beside the pack, under the hash that results carry."""
    file = folder / f"split-{division.hash[:16]}.json"
    if not file.is_file() and rank() == 0:
        write_json(file, {"hash": division.hash, "test": [packed.paths[i] for i in division.test]})


def need_labels(data: Data) -> None:
    """Raises UserError for a dataset that cannot be evaluated on."""
    if len(data.pack.card.classes) < 2 or not (data.pack.labels >= 0).any():
        raise UserError(
            f"{data.dataset.root} has no class folders, so a classifier cannot be trained or tested on it: "
            "type task=pretrain to pre-train on it alone, or name a labelled dataset= beside pretrain.root="
        )


def statistics(*pools: tuple[Pack, np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-band mean and std (0..1 units) of the valid pixels of one pool, or of several together."""
    mean, std = mean_std(np.concatenate([pack.moments[rows] for pack, rows in pools]))
    return tuple(mean.tolist()), tuple(std.tolist())
