"""Features that stay in the store: what is asked for is read, so memory does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

ROWS = 4096  # read at a time


class Bank(Protocol):
    """Features by row, on a disk."""

    @property
    def width(self) -> int: ...

    def read(self, rows: np.ndarray) -> Tensor: ...


class OnDisk:
    """Features (n, D) of a bank's rows, used as a tensor is: x[3:9], x[numbers] and x[mask] read those and are tensors;
    x[:, 3:9] is still on the disk, with these columns alone.

    Args:
        bank: where they lie.
        rows: (n,) their rows in the bank.
        columns: of the bank.
    """

    ndim = 2

    def __init__(self, bank: Bank, rows: np.ndarray, columns: slice = slice(None)) -> None:
        self.bank, self.rows, self.columns = bank, rows, columns
        self.shape = len(rows), len(range(bank.width)[columns])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            rows, columns = key
            start, stop, _ = columns.indices(self.shape[1])
            first = self.columns.indices(self.bank.width)[0]
            return OnDisk(self.bank, self.rows[rows], slice(first + start, first + stop))
        chosen = self.rows[key.numpy() if isinstance(key, Tensor) else key]
        return self.bank.read(chosen)[:, self.columns]


Features = Tensor | OnDisk


def part_of(features: Features, mask: Tensor) -> Features:
    """Those that a mask (n,) marks: on the disk, where the others are."""
    if isinstance(features, OnDisk):
        return OnDisk(features.bank, features.rows[mask.numpy()], features.columns)
    return features[mask]


def in_parts(*features: Features) -> Iterator[Tensor]:
    """All of them, one after the other, ROWS at a time."""
    for some in features:
        for start in range(0, len(some), ROWS):
            yield some[start : start + ROWS]


def mean_of(*features: Features) -> Tensor:
    """The mean (D,) float32 of all of them, added up in double precision."""
    total = sum(part.double().sum(0) for part in in_parts(*features))
    return (torch.as_tensor(total) / max(1, sum(map(len, features)))).float()
