"""How evenly batches of 256 take data that is sorted, in an order of all tiles and in one of groups of blocks.

python experiments/scale/groups.py
"""

from __future__ import annotations

import numpy as np

from rsssl.data.order import BlockOrder
from rsssl.rng import Order, fold

TILES, BLOCK, BATCH, CLASSES = 1 << 20, 256, 256, 16


def main() -> None:
    starts, n_blocks = np.arange(0, TILES + 1, BLOCK), TILES // BLOCK
    print("| order | spread of a class's share | least, most | blocks in a batch |")
    print("| --- | --- | --- | --- |")
    for name, group in (("all tiles", None), ("groups of 16 blocks", 16), ("64", 64), ("256", 256)):
        shares, touched = [], []
        for epoch in range(3):
            key = fold("groups", epoch)
            order = Order(key, TILES) if group is None else BlockOrder(key, starts, group)
            ids = order[:].reshape(-1, BATCH)
            classes = ids * CLASSES // TILES
            shares.append(np.stack([(classes == c).mean(1) for c in range(CLASSES)]))
            touched.append(np.mean([len(np.unique(row)) for row in ids // BLOCK]))
        all_shares = np.concatenate(shares, 1)
        row = f"{100 * all_shares.std():.2f} % | {100 * all_shares.min():.1f} %, {100 * all_shares.max():.1f} %"
        print(f"| {name} | {row} | {np.mean(touched):.0f} of {n_blocks:,} |")


if __name__ == "__main__":
    main()
