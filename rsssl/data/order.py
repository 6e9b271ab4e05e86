"""The order of an epoch over data that is read in blocks: blocks are permuted, then the tiles of a group of blocks."""

from __future__ import annotations

import numpy as np

from rsssl.rng import Order, fold, permutation

GROUP = 64  # blocks whose tiles are mixed


class BlockOrder:
    """A random permutation of range(n) that goes through the data in groups of blocks::

        order = BlockOrder(fold(seed, "order", epoch), starts)
        ids = order[a:b]                     # (b - a,) int64; order[a:b:step] works too

    The blocks are permuted, and `group` of them in a row are a group. The epoch takes one group after the other, the
    tiles of each in a random order. So a batch has tiles of one group, or of two neighbours, and two tiles whose blocks
    are in different groups never meet in this epoch; in the next one the groups are others. Of no more than `group`
    blocks it would be a random permutation like any other.

    Any slice is computed from the key and `starts` alone; of a group as many numbers are kept as it has tiles.

    Args:
        key: see `rsssl.rng.fold`.
        starts: (m + 1,) int64, the first id of each of m blocks, and n.
        group: blocks of a group.
    """

    def __init__(self, key: int, starts: np.ndarray, group: int = GROUP) -> None:
        self.key, self.starts, self.group = key, starts, group
        m = len(starts) - 1
        self._blocks = Order(fold(key, "blocks"), m)[:]
        lengths = np.diff(starts)[self._blocks]
        firsts = np.arange(0, m, group)
        sums = np.add.reduceat(lengths, firsts) if m else np.zeros(0, np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(sums)])  # positions where groups begin, and n
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def n_groups(self) -> int:
        return len(self._firsts) - 1

    def group_at(self, position: int) -> int:
        """The number of the group that a position lies in."""
        return int(np.searchsorted(self._firsts, position, side="right")) - 1

    def blocks(self, number: int) -> np.ndarray:
        """The blocks of a group, (g,) int64."""
        return self._blocks[number * self.group : (number + 1) * self.group]

    def __getitem__(self, part: slice) -> np.ndarray:
        """The ids at these positions, (m,) int64; positions beyond the end are left out, as in a list."""
        if not isinstance(part, slice):
            raise TypeError(f"a BlockOrder gives slices, order[a:b], not order[{part!r}]")
        chosen = range(len(self))[part]
        positions = np.arange(chosen.start, chosen.stop, chosen.step, dtype=np.int64)
        ids = np.empty(len(positions), np.int64)
        groups = np.searchsorted(self._firsts, positions, side="right") - 1
        for g in np.unique(groups).tolist():
            here = groups == g
            ids[here] = self._ids(g)[positions[here] - self._firsts[g]]
        return ids

    def _ids(self, number: int) -> np.ndarray:
        """The ids of a group in their order; those of the last two groups asked for are kept."""
        kept = self._kept  # taken once: another thread may put another group there
        if number not in kept:
            tiles = [np.arange(self.starts[b], self.starts[b + 1]) for b in self.blocks(number).tolist()]
            joined = np.concatenate(tiles)
            ids = joined[permutation(fold(self.key, "group", number), len(joined))]
            last = {number: ids} | dict(list(kept.items())[:1])
            self._kept = kept = last
        return kept[number]
