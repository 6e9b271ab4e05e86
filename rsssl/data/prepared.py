"""Datasets as the tasks use them: packed once, split, with the statistics of the pool."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from rsssl.data.catalog import source_listing
from rsssl.data.dataset import Dataset
from rsssl.data.pack import PACK_VERSION, Pack, mean_std, pack
from rsssl.data.split import Split, split
from rsssl.engine.files import write_json
from rsssl.engine.ranks import rank
from rsssl.engine.store import Store, digest
from rsssl.errors import UserError
from rsssl.tasks.common import option, plain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """A packed dataset with its fixed test set, and the per-band mean and std (0..1 units) of its pool."""

    dataset: Dataset
    pack: Pack
    split: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]


_open: dict[str, Data] = {}  # jobs of one sweep run in one process: what was opened stays open


def load(config: dict[str, Any], store: Store, workers: int | None, protocol: str = "clean") -> Data:
    """Packs the dataset unless the store has it, and draws its test set.

    With protocol "validation" the test set stays closed: the pool is divided once more, and a part of it plays the test set.

    Raises:
        UserError: when the imagery is missing or unusable, naming what to type.
    """
    arguments = {k: v for k, v in config.items() if not k.startswith("_")}
    dataset = Dataset(**arguments)
    catalog = dataset.catalog()
    # What cannot change the packed pixels is not in the key.
    settings = {
        k: v
        for k, v in arguments.items()
        if k not in ("split_seed", "test_fraction", "url", "md5", "homepage", "download", "generate")
    }
    settings["root"] = str(catalog.root)
    inputs = {"settings": settings, "listing": source_listing(catalog), "version": PACK_VERSION}
    key = digest({"pack": inputs, "split": [dataset.split_seed, dataset.test_fraction, protocol == "validation"]})
    if key not in _open:
        artifact = store.get("pack", inputs, lambda folder: pack(dataset, folder, workers))
        packed = Pack.open(artifact.folder)
        report_skipped(packed)
        division = split(packed.paths, packed.labels, dataset.split_seed, dataset.test_fraction)
        if protocol == "validation":
            division = within_pool(packed, division, dataset)
        save_split(artifact.folder, packed, division)
        _open[key] = Data(dataset, packed, division, *statistics((packed, division.pool)))
    return _open[key]


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


def pretraining_configs(cfg: DictConfig) -> list[dict[str, Any]]:
    """The dataset configs to pre-train on: `pretrain.dataset` (a name, or several), else the evaluated dataset's own."""
    own = plain(cfg.dataset)
    names, roots = as_list(cfg.pretrain.dataset), as_list(cfg.pretrain.root)
    if not names:
        if roots:
            raise UserError("pretrain.root needs pretrain.dataset: type for example pretrain.dataset=folder")
        return [own]
    if roots and len(roots) != len(names):
        raise UserError(f"pretrain.root has {len(roots)} folders for {len(names)} datasets: type one for each")
    configs = []
    for i, name in enumerate(names):
        config = option(cfg, "dataset", name)
        if roots:
            config["root"] = roots[i]
        if same_images(config, own, bool(roots)):
            config = own  # with its split: what it tests on is never trained on
        else:
            # Editions of one dataset share their test scenes when they share the split.
            config |= {k: own[k] for k in ("split_seed", "test_fraction", "on_error")}
            if roots and name == "folder":
                config["classes"] = []  # any tree: its folders need not be classes, and none of it is tested on
        configs.append(config)
    return configs


def same_images(config: dict[str, Any], own: dict[str, Any], rooted: bool) -> bool:
    """Whether a dataset to pre-train on is the evaluated one, under its own name, an alias, or by its folder."""
    if not rooted and config["name"] == own["name"]:
        return True
    roots = [c["root"] and Path(c["root"]).expanduser().resolve() for c in (config, own)]
    return roots[0] is not None and roots[0] == roots[1]


def as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if not isinstance(value, str) else [value]


def statistics(*pools: tuple[Pack, np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-band mean and std (0..1 units) of the valid pixels of one pool, or of several together."""
    mean, std = mean_std(np.concatenate([pack.moments[rows] for pack, rows in pools]))
    return tuple(mean.tolist()), tuple(std.tolist())
