"""The teacher of `ssl=distil`: a network that exists, and has seen every image of the pool once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl.data.prepared import Data
from rsssl.data.rows import Indices
from rsssl.engine.run import Run
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.features import feature_bank
from rsssl.networks.checkpoints import find_checkpoint, from_file


class Teacher:
    """A network's features of the pool, kept in the store.

    Args:
        file: its weights.
        parts: the datasets of the pool.
        indices: of each of them, the rows that are in the pool.
        run: names the store and the device.

    Raises:
        UserError: when it was trained on other bands.
    """

    def __init__(self, file: Path, parts: list[Data], indices: list[Indices], run: Run) -> None:
        self.banks = [feature_bank(run.store, d.pack, from_file(file, d), run.device) for d in parts]
        listed = [np.asarray(rows) for rows in indices]
        for bank, rows in zip(self.banks, listed, strict=True):
            bank.title = "the teacher's features"
            bank.complete(rows)
        self.rows, self.ends = np.concatenate(listed), np.cumsum([len(rows) for rows in listed])

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Numbers (n,) of images in the pool -> features (n, D) float32, on the CPU."""
        part = np.searchsorted(self.ends, numbers, side="right")
        found: Tensor | None = None
        for i, bank in enumerate(self.banks):
            here = np.flatnonzero(part == i)
            if len(here):
                features = bank.read(self.rows[numbers[here]])
                found = features.new_empty(len(numbers), features.shape[1]) if found is None else found
                found[torch.from_numpy(here)] = features
        assert found is not None
        return found


def teacher_file(ssl: dict[str, Any], store: Store) -> Path | None:
    """The file of the weights that a method's `teacher` names; None for a method without.

    Raises:
        UserError: when none is named, or there is none.
    """
    if "teacher" not in ssl:
        return None
    if ssl["teacher"] is None:
        raise UserError("ssl=distil needs a network to learn from: type ssl.teacher=DIR with a run folder of one")
    return find_checkpoint(str(ssl["teacher"]), store, "ssl.teacher")
