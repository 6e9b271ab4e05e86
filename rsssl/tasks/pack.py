"""`task=pack`: read the imagery once, and say what it is."""

from __future__ import annotations

import numpy as np
from omegaconf import DictConfig

from rsssl.data.prepared import load
from rsssl.engine.store import Store
from rsssl.tasks.common import plain


def run(cfg: DictConfig) -> None:
    """Packs the dataset (unless the store has it) and prints its sensor card, classes and skipped files, its pixels checked
    against their checksum."""
    data = load(plain(cfg.dataset), Store(cfg.paths.store), cfg.workers)
    pack, card = data.pack, data.pack.card
    pack.verify()
    print(
        f"\n{card.name}: {len(pack.images)} images of {card.size[0]} x {card.size[1]} pixels, {card.n_bands} bands, {card.dtype}"
    )
    print(
        f"  {len(data.split.pool)} in the pool, {len(data.split.test)} in the test set (split {data.split.hash[:16]})"
    )
    print(
        f"  {'band':<12} {'low':>9} {'high':>9} {'mean':>7} {'std':>7}   (mean and std of the pool in units of 0 to 1)"
    )
    for band, low, high, mean, std in zip(card.bands, card.low, card.high, data.mean, data.std, strict=True):
        print(f"  {band:<12} {low:>9g} {high:>9g} {mean:>7.4f} {std:>7.4f}")
    for label, name in enumerate(card.classes):
        print(f"  {name:<24} {int(np.sum(pack.labels == label)):>7} images")
    for path, reason in pack.skipped.items():
        print(f"  left out: {path}: {reason}")
