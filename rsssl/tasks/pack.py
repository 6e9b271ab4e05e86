"""`task=pack`: read the imagery once, and say what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsssl.data.dataset import Dataset, PackKeys
from rsssl.engine.run import Run


@dataclass
class PackImages:
    """Packs a dataset, unless the store has it, and prints its sensor card, classes and the files left out.

    Args:
        dataset: the images.
        pack: see `PackKeys`.
    """

    dataset: Dataset
    pack: PackKeys

    def check(self) -> None:
        """Refuses impossible values, before any data is read."""
        self.dataset.check()
        self.pack.check()

    def run(self, run: Run) -> dict[str, Any]:
        """Packs, or finds the pack that is there.

        Returns:
            {"folder": of the pack, "card": the sensor card, "pool": images in the pool, "test": images in the test
            set}.
        """
        from rsssl.data.prepared import load
        from rsssl.data.sizes import LARGEST, size_advice

        data = load(self.dataset, run.store, run.workers, tiles=self.pack.tiles)
        pack, card = data.pack, data.pack.card
        print(f"\n{card.name}: {card.dtype}, split {data.split.hash[:16]}, in {pack.folder}")
        print(f"  {'band':<12} {'low':>9} {'high':>9} {'mean':>7} {'std':>7}   (mean and std of the pool, 0 to 1)")
        for band, low, high, mean, std in zip(card.bands, card.low, card.high, data.mean, data.std, strict=True):
            print(f"  {band:<12} {low:>9g} {high:>9g} {mean:>7.4f} {std:>7.4f}")
        for label, name in enumerate(card.classes):
            print(f"  {name:<24} {int((pack.labels == label).sum()):>7} images")
        for path, reason in pack.skipped.items():
            print(f"  left out: {path}: {reason}")
        if advice := size_advice(self.dataset, pack, LARGEST):
            print(f"  {advice}")
        counts = {"pool": len(data.split.pool), "test": len(data.split.test)}
        return {"folder": str(pack.folder), "card": card.to_dict()} | counts
