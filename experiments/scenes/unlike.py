"""How well tiles of another place are told from a classifier's own: python unlike.py RUN_FOLDER OWN OTHER...

The area under the curve of telling by `Trust.unlike` 500 tiles of each folder OTHER from 500 of the folder OWN.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import rsssl
from rsssl.data.catalog import scan
from rsssl.rng import permutation


def tiles(folder: str, size: int, n: int = 500) -> torch.Tensor:
    """(n, size, size, 3) uint8."""
    catalog = scan(folder)
    chosen = [catalog.root / catalog.paths[i] for i in permutation(5, len(catalog))[:n]]
    return torch.from_numpy(np.stack([np.asarray(Image.open(p).convert("RGB").resize((size, size))) for p in chosen]))


@torch.inference_mode()
def unlike(network: Any, images: torch.Tensor) -> np.ndarray:
    parts = [network.judged(network.input(part.permute(0, 3, 1, 2)))[1] for part in images.split(50)]
    return torch.cat(parts).numpy()


def main(folder: str, own: str, *others: str) -> None:
    network = rsssl.load_classifier(folder)
    known = unlike(network, tiles(own, network.window))
    print(f"{Path(own).name}: {100 * (known > 1).mean(0).round(3)} % above 1 (pool, labels)")
    for other in others:
        new = unlike(network, tiles(other, network.window))
        truth = np.repeat([0, 1], [len(known), len(new)])
        areas = [roc_auc_score(truth, np.concatenate([known[:, i], new[:, i]])) for i in (0, 1)]
        print(f"{Path(other).name}: AUC {areas[0]:.3f} by the pool, {areas[1]:.3f} by the labels")


if __name__ == "__main__":
    main(*sys.argv[1:])
