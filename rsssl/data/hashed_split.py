"""Test sets of datasets too large to be ranked: every labelled image tests by itself, when a hash of its name is small.

The hash is the one that smaller datasets are ranked by (split.py), and its probability the fraction that tests; so each
class has about that fraction of its images in the test set, and not exactly. Which images these are is a bitmap beside
the pack, made once, pack by pack:

    folder/split-<hash>.bits    of `rows.Marked`
    folder/split-<hash>.json    its SHA-256, and the sums of the moments of the images that it marks; sealed
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsssl.data.chunks import moment_sums
from rsssl.data.pack import Pack, mapped
from rsssl.data.rows import Marked, Run, bitmap
from rsssl.data.split import Split, largest_hash
from rsssl.engine.files import locked, sha256, sha256_of, write_atomic, write_sealed
from rsssl.engine.store import digest
from rsssl.errors import UserError
from rsssl.records import Damaged, read_sealed
from rsssl.rng import fold, hash64_numpy

log = logging.getLogger(__name__)
RULE = 1  # of how images are chosen: a change of it makes other test sets
AT_ONCE = 1 << 16  # images


def hashed_split(pack: Pack, split_seed: int, test_fraction: float, validation: bool = False) -> Split:
    """Divides a dataset.

    Args:
        pack: the images; one without a label goes to the pool.
        split_seed: draws the test set.
        test_fraction: the probability of a labelled image to test.
        validation: divide the pool once more in the same way, and leave the test set out.
    """
    n, hashed = len(pack), {"rule": RULE, "seed": split_seed, "fraction": test_fraction, "validation": validation}
    name = sha256(repr([*hashed.items(), pack.fingerprint]).encode())
    if test_fraction == 0 or not pack.labelled:
        return Split(np.empty(0, np.int64), Run(0, n, pack.sums), name)
    until = test_fraction + validation * (1 - test_fraction) * test_fraction
    bits, sums = marked(pack, split_seed, until)
    test = Marked(bits, n, True, sums)
    if validation:
        test = Marked(bits & ~marked(pack, split_seed, test_fraction)[0], n, True)
    return Split(test, Marked(bits, n, False, pack.sums - sums), name)


def marked(pack: Pack, split_seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The bitmap of the labelled images whose hash is among the smallest share, mapped, and the sums of their moments.

    It is read from the pack's folder, or made, by one process at a time.
    """
    inputs = {"rule": RULE, "seed": split_seed, "share": share, "pack": pack.fingerprint}
    name = f"split-{digest(inputs)}"
    bits, record = pack.folder / f"{name}.bits", pack.folder / f"{name}.json"
    try:
        with locked(pack.folder / f".{name}.lock", waiting="another process divides the dataset; waiting"):
            if (known := whole(bits, record)) is None:
                log.info("dividing %s images by a hash of their names, once", f"{len(pack):,}")
                sums = np.zeros_like(pack.sums)
                write_atomic(bits, bitmap(masks(pack, fold("split", split_seed), share, sums)).tobytes())
                write_sealed(record, inputs | {"sha256": sha256_of(bits), "sums": sums.tolist()})
                known = sums
    except (OSError, UserError):  # a store may be for reading only
        sums = np.zeros_like(pack.sums)
        return bitmap(masks(pack, fold("split", split_seed), share, sums)), sums
    return mapped(str(bits), np.uint8, (bits.stat().st_size,)), known


def whole(bits: Path, record: Path) -> np.ndarray | None:
    """The sums of a bitmap that is what was written; None where there is none."""
    try:
        content = read_sealed(record, "")
        return np.array(content["sums"]) if sha256_of(bits) == content["sha256"] else None
    except (Damaged, OSError):
        return None


def masks(pack: Pack, key: int, share: float, sums: np.ndarray) -> Iterator[np.ndarray]:
    """Which images are marked, bool (m,) of all of them in order; adds their moments (C, 3) to `sums`."""
    for part in pack.parts:
        ids, labels, moments = part.paths.ids(), part.labels, part.moments
        for start in range(0, len(part) if part.labelled else 0, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            mask = (labels[some] >= 0) & (hash64_numpy(key, ids[some].view(np.int64)) <= largest_hash(share))
            sums[:] = moment_sums(moments[some].compress(mask, 0), sums)  # twice as fast as by [mask]
            yield mask
        if not part.labelled:
            yield np.zeros(len(part), bool)
