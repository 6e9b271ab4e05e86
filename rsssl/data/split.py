"""Which images test, and which of the others lend their labels: fixed by the paths and a seed, by nothing else.

Every image has its own hash of (seed, path), and a class is ranked by these hashes. So the order in which the file
system lists files does not matter, and the choice is stratified and nested: the 5 images of a class are the first 5 of
its 10.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsssl.data.names import Names, name_ids, select
from rsssl.data.rows import LISTED, Indices, Rows
from rsssl.errors import UserError
from rsssl.rng import fold, hash64_numpy


class Split(NamedTuple):
    """A dataset in two disjoint parts.

    Args:
        test: int64 indices of images, ascending; of large datasets `Rows`, which are not listed.
        pool: those of all other images.
        hash: sha256 of which image is in which part.
    """

    test: Indices
    pool: Indices
    hash: str


def ranked(paths: Sequence[str], indices: np.ndarray, key: int) -> np.ndarray:
    """`indices` in the order of the images' hashes; files that differ only in their suffix are ordered by it."""
    names = [os.fsencode(path) for path in select(paths, indices)]
    hashes = hash64_numpy(key, name_ids(names).view(np.int64)).tolist()
    return indices[sorted(range(len(names)), key=lambda i: (hashes[i], names[i]))]


def _round(x: float) -> int:
    return math.floor(x + 0.5)  # half up: what a reader expects, unlike round()


def share_of(fraction: float, n: int) -> int:
    """How many of n images test: that fraction, at least 1, and at least 1 is left; none for a fraction of 0."""
    return 0 if fraction == 0 else min(max(_round(fraction * n), 1), n - 1)


def largest_hash(share: float) -> np.uint64:
    """Of a share of all hashes, the smallest ones."""
    return np.uint64(max(round(share * 2**64) - 1, 0))


def split(paths: Sequence[str], labels: np.ndarray, split_seed: int, test_fraction: float = 0.2) -> Split:
    """Set aside a part of every class as the test set.

    Args:
        paths: N distinct names.
        labels: (N,), -1 for an unlabelled image, which goes to the pool, as does the only image of a class.
        split_seed: draws the test set.
        test_fraction: of each class, at least 1 image, and at least 1 is left; 0 for no test set.
    """
    labels = np.asarray(labels)
    key = fold("split", split_seed)
    test: list[np.ndarray] = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        test.append(ranked(paths, members, key)[: share_of(test_fraction, len(members))])
    chosen = np.sort(np.concatenate(test)) if test else np.empty(0, np.int64)
    pool = np.setdiff1d(np.arange(len(labels)), chosen)
    return Split(chosen.astype(np.int64), pool.astype(np.int64), division_hash(paths, labels, chosen, pool))


def division_hash(paths: Sequence[str], labels: np.ndarray, test: np.ndarray, pool: np.ndarray) -> str:
    """sha256 of which image, with which label, is in which part."""
    digest = hashlib.sha256()
    for part, indices in (("test", test), ("pool", pool)):
        lines = sorted(
            os.fsencode(path) + b"\0" + str(label).encode()
            for path, label in zip(select(paths, indices), labels[indices].tolist(), strict=True)
        )
        digest.update(part.encode() + b"\n" + b"\n".join(lines) + b"\n")
    return digest.hexdigest()


def labelled_subset(
    labels: np.ndarray,
    paths: Sequence[str],
    pool: Indices,
    ts: int | float | str,
    seed: int,
    classes: Sequence[str] = (),
) -> np.ndarray:
    """The pool images whose labels may be used: int64 indices, ascending.

    For one seed the smaller subsets lie inside the larger ones.

    Args:
        labels: (N,) of all images, -1 for an unlabelled one.
        paths: of all images.
        pool: indices of those that do not test.
        ts: an int is that many of every class, a float in (0, 1] that fraction of each (half up, at least 1), "all" the
            whole pool.
        seed: draws the images.
        classes: their names, for messages; where there are none, the folder of a class's first image is named.

    Raises:
        UserError: when a class has fewer images in the pool than asked for.
        ValueError: for another `ts`.
    """
    if ts != "all" and (isinstance(ts, bool | str) or ts <= 0 or (isinstance(ts, float) and ts > 1)):
        raise ValueError(f"ts {ts!r} is neither a count, nor a fraction in (0, 1], nor 'all'")
    if isinstance(pool, Rows):
        return _subset_of_many(labels, paths, pool, ts, fold("labels", seed), classes)
    labels, pool = np.asarray(labels), np.asarray(pool)
    present = np.unique(labels[labels >= 0])
    pool = pool[labels[pool] >= 0]
    if ts == "all":
        return np.sort(pool).astype(np.int64)
    key, counts = fold("labels", seed), {int(label): int((labels[pool] == label).sum()) for label in present}
    chosen: list[np.ndarray] = []
    for label, count in counts.items():
        n = max(1, _round(ts * count)) if isinstance(ts, float) else int(ts)
        if n > count:
            folder = classes[label] if classes else paths[int(np.flatnonzero(labels == label)[0])].split("/")[0]
            raise _too_few(folder, f"ts={ts}", n, count, min(counts.values()))
        chosen.append(ranked(paths, pool[labels[pool] == label], key)[:n])
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.empty(0, np.int64)


def refuse_too_few(
    labels: np.ndarray, classes: Sequence[str], ts: int | float | str, test_fraction: float, divisions: int = 1
) -> None:
    """Raises what `labelled_subset` would, by the classes' sizes alone: before any image is read.

    Args:
        labels: (N,) of all images.
        classes: their names.
        ts: as of `labelled_subset`.
        test_fraction: as of `split`, which takes it `divisions` times.
        divisions: 2 where a part of the pool plays the test set.
    """
    counts = {name: int((labels == label).sum()) for label, name in enumerate(classes)}
    for _ in range(divisions):
        counts = {name: n - share_of(test_fraction, n) for name, n in counts.items() if n}
    for name, count in counts.items():
        if isinstance(ts, int) and ts > count:
            raise _too_few(name, f"ts={ts}", ts, count, min(counts.values()))


def _too_few(folder: str, typed: str, n: int, count: int, fewest: int) -> UserError:
    most = f"at most ts={fewest}" if fewest else "another dataset.split_seed"
    return UserError(
        f"{typed} asks for {n} labelled images per class, and class {folder} has {count} in "
        f"the pool (its other images are the test set). Type {most}, or ts=all"
    )


def _subset_of_many(
    labels: np.ndarray, paths: Sequence[str], pool: Rows, ts: int | float | str, key: int, classes: Sequence[str]
) -> np.ndarray:
    """`labelled_subset` of a pool that is not listed. A fraction is the probability of each image to be chosen."""
    assert isinstance(paths, Names)
    share, counts = 1.0 if ts == "all" else ts, dict[int, int]()
    chosen, hashes = np.empty(0, np.int64), np.empty(0, np.uint64)
    for start in range(0, len(labels), LISTED):
        stop = min(start + LISTED, len(labels))
        some = labels[start:stop]
        rows = np.flatnonzero((some >= 0) & pool.within(start, stop))
        for label in np.unique(some[some >= 0]).tolist():
            counts[label] = counts.get(label, 0) + int((some[rows] == label).sum())
        drawn = hash64_numpy(key, paths.ids_within(start, stop)[rows].view(np.int64))
        if isinstance(share, float):
            rows, drawn = (values[drawn <= largest_hash(share)] for values in (rows, drawn))
        chosen, hashes = np.concatenate([chosen, start + rows]), np.concatenate([hashes, drawn])
        if isinstance(share, int):  # the first of each class
            order = np.lexsort((chosen, hashes, labels[chosen]))
            of = labels[chosen[order]]
            first = order[np.arange(len(of)) - np.searchsorted(of, of) < share]
            chosen, hashes = chosen[first], hashes[first]
    for label, count in counts.items():
        if isinstance(share, int) and count < share:
            raise _too_few(classes[label] if classes else str(label), f"ts={ts}", share, count, min(counts.values()))
    return np.sort(chosen)
