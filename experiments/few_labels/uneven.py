"""Copies a dataset of class folders with uneven classes: the largest has ten times the images of the smallest.

python experiments/few_labels/uneven.py EuroSAT_RGB EuroSAT_uneven
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

RATIO = 10


def main(source: Path, out: Path) -> None:
    folders = sorted(f for f in source.iterdir() if f.is_dir())
    order = np.random.default_rng(0).permutation(len(folders))
    most = min(len(list(f.iterdir())) for f in folders)
    for rank, number in enumerate(order):
        images = sorted(folders[number].iterdir())
        keep = round(most * RATIO ** (-rank / (len(folders) - 1)))
        chosen = np.random.default_rng([1, int(number)]).permutation(len(images))[:keep]
        (out / folders[number].name).mkdir(parents=True)
        for i in chosen:
            shutil.copy(images[i], out / folders[number].name)
        print(f"{folders[number].name}: {keep}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
