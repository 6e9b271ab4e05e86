"""Frozen features, each computed once: a bank on disk that fills as rows are asked for.

Whatever labelled subset, seed, classifier or regularisation strength asks, the features of an image under given weights
are the same; so they are kept in the store, and a second sweep over the same backbone costs seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from rsssl.augment import prepare, symmetries
from rsssl.data.pack import Pack
from rsssl.data.pool import stored
from rsssl.engine.device import autocast, on_device, precision
from rsssl.engine.distributed import broadcast, collect, rank, world_size
from rsssl.engine.files import explain_os_error, write_atomic
from rsssl.engine.progress import Progress
from rsssl.engine.step_memory import images_at_once
from rsssl.engine.store import Store
from rsssl.evaluation.bank_files import CHUNK, checksums_of, known_checksums, mapped, row_checksums
from rsssl.models.maps import check_size
from rsssl.models.preprocess import Preprocess
from rsssl.models.statistics import band_statistics

log = logging.getLogger(__name__)
MANY = 5000  # images from which on it is said that their features take a while
FEATURES_VERSION = 2  # raised when a change of the code changes the features of the same weights and images

Extract = Callable[[np.ndarray], Tensor]  # rows of a pack -> (n, D) float32 features


class FeatureBank:
    """Features of a pack's images in `folder`, by row.

    A row is known by the checksum of its features: what is damaged is as if it had never been computed.

    Args:
        folder: of the bank's files (bank_files.py).
        n_rows: images in the pack.
        extract: computes the features of rows that are missing.
        title: stands before the progress.
    """

    def __init__(self, folder: Path, n_rows: int, extract: Extract, title: str = "features") -> None:
        self.folder, self.n_rows, self.extract, self.title = folder, n_rows, extract, title

    def get(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D) float32, on the CPU; what is missing is computed and kept. See `complete`."""
        self.complete(rows)
        return self.read(rows)

    def complete(self, rows: np.ndarray) -> None:
        """Computes and keeps what is missing.

        Under torchrun all ranks call it together. They divide what is missing in chunks that do not depend on their
        number, and rank 0 keeps it.
        """
        if rank() > 0:
            for _ in self._extract(broadcast(None)):
                pass
            broadcast(None)  # rank 0 has written them
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        with FileLock(self.folder / ".lock"):
            checksums = known_checksums(self.folder, self.n_rows)
            wanted = np.unique(rows)
            missing = broadcast(wanted[~self._whole(wanted, checksums)])
            if len(missing):
                try:
                    self._compute(missing, checksums)
                except OSError as error:
                    raise explain_os_error(error, self.folder) from error
            broadcast(None)

    def read(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D) float32, on the CPU, of rows that are complete."""
        return torch.from_numpy(np.array(mapped(self.folder, self.n_rows)[rows]))

    def _whole(self, rows: np.ndarray, checksums: np.ndarray) -> np.ndarray:
        """(len(rows),) bool: which rows are known, and what was written."""
        whole = checksums[rows] != 0
        if whole.any():
            known = rows[whole]
            whole[whole] = right = checksums_of(mapped(self.folder, self.n_rows), known) == checksums[known]
            if not right.all():
                log.warning("%s: %d rows are damaged and computed again", self.folder, (~right).sum())
        return whole

    def _extract(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of the rows with their features (n, D), each made by one of the ranks, in order."""
        chunks = [missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)]
        with Progress(self.title, len(missing), "images") as progress:
            for i in range(0, len(chunks), world_size()):
                turn = chunks[i : i + world_size()]
                features = self.extract(turn[rank()]).float().cpu().numpy() if rank() < len(turn) else None
                yield from zip(turn, collect(features), strict=False)  # fewer chunks than ranks, in the end
                progress.update(sum(map(len, turn)))

    def _compute(self, missing: np.ndarray, checksums: np.ndarray) -> None:
        if len(missing) >= MANY:
            log.info("%s of %d images are computed, once", self.title, len(missing))
        bank = None
        for rows, features in self._extract(missing):
            if bank is None:
                file = self.folder / "features.bin"
                shape = (self.n_rows, features.shape[1])
                claim(file, 4 * self.n_rows * features.shape[1])
                bank = np.memmap(file, np.float32, "r+", shape=shape)
            bank[rows] = features
            checksums[rows] = row_checksums(features)
        assert bank is not None
        bank.flush()  # the rows are marked as known only once their numbers are on disk
        write_atomic(self.folder / "rows.bin", checksums.tobytes())


def damaged_rows(folder: Path) -> int:
    """How many rows of a bank are not what was written; all of them where its files do not go together."""
    if not (folder / "rows.bin").is_file():
        return 0  # unfinished
    n_rows = max(1, (folder / "rows.bin").stat().st_size // 4)
    checksums = known_checksums(folder, n_rows)
    known = np.flatnonzero(checksums)
    return int((checksums_of(mapped(folder, n_rows), known) != checksums[known]).sum()) if len(known) else n_rows


def claim(file: Path, size: int) -> None:
    """Makes the file that large, with its disk space: a full disk is an error now, and not a crash while mapping it."""
    with open(file, "ab") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
        handle.truncate(size)


@dataclass(frozen=True)
class Weights:
    """A frozen backbone to evaluate, and how images must be presented to it.

    Args:
        build: makes the network, a new one at each call.
        spec: its name and arguments.
        hash: of the weights.
        preprocess: how the images of the evaluated dataset become its input.
        record: what the results say of the pre-training; None for weights that were not pre-trained here.
        file: where the weights lie; None where `build` makes them.
        start: what tells the start that they were trained from; None for random ones, and where nothing was trained.
    """

    build: Callable[[], nn.Module]
    spec: dict[str, Any]
    hash: str
    preprocess: Preprocess
    record: dict[str, Any] | None = None
    file: Path | None = None
    start: dict[str, Any] | None = None


class Extractor:
    """Features of a frozen backbone in evaluation mode.

    Args:
        build: gives the backbone; called when the first feature is needed.
        pack: the images.
        preprocess: how they become the backbone's input.
        device: where the features are computed.
        symmetry: which of the eight flips and quarter turns the images are seen under; 0 leaves them as they are.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        pack: Pack,
        preprocess: Preprocess,
        device: torch.device,
        symmetry: int = 0,
    ) -> None:
        self.build, self.pack, self.preprocess = build, pack, preprocess.of(pack.card)
        self.device, self.symmetry = device, symmetry
        self._model: nn.Module | None = None
        self._at_once = 0

    @torch.inference_mode()
    def __call__(self, rows: np.ndarray) -> Tensor:
        """Rows (n,) of the pack -> features (n, D)."""
        if self._model is None:
            self._model = on_device(self.build(), self.device)
            check_size(self._model, self.preprocess.size, "image_size")
        self._model.eval()  # the online probe's backbone is put back into training between two calls
        if not self._at_once:
            self._at_once = images_at_once(self._model, self._seen(rows[:1]), CHUNK)
        with autocast(self.device):
            return torch.cat([self._model(self._seen(part)) for part in parts_of(rows, self._at_once)])

    def _seen(self, rows: np.ndarray) -> Tensor:
        """The images (n, C, S, S) as the network sees them."""
        x = prepare(stored(self.pack, rows, self.device), self.preprocess)
        return symmetries(x)[self.symmetry] if self.symmetry else x


def parts_of(rows: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The rows, so many at a time."""
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def feature_bank(store: Store, pack: Pack, weights: Weights, device: torch.device, symmetry: int = 0) -> FeatureBank:
    """The features of a pack's images under some weights, kept in the store."""
    preprocess = weights.preprocess.of(pack.card)
    inputs = {
        "version": FEATURES_VERSION,
        "weights": weights.hash,
        "pixels": pack.fingerprint,
        "size": preprocess.size,
        "precision": precision(device),
        "low": pack.card.low,
        "high": pack.card.high,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "symmetry": symmetry,
    }
    extract = Extractor(weights.build, pack, preprocess, device, symmetry)
    return FeatureBank(store.folder("features", inputs), len(pack), extract)


def statistics_bank(store: Store, pack: Pack, preprocess: Preprocess, device: torch.device) -> FeatureBank:
    """The statistics of the bands of a pack's images as a network sees them, kept in the store."""
    preprocess = preprocess.of(pack.card)
    inputs = {"version": FEATURES_VERSION, "weights": "band statistics", "pixels": pack.fingerprint}
    inputs |= {"size": preprocess.size, "low": pack.card.low, "high": pack.card.high}
    inputs |= {"mean": preprocess.mean, "std": preprocess.std}

    def extract(rows: np.ndarray) -> Tensor:
        return band_statistics(prepare(stored(pack, rows, device), preprocess)).cpu()

    return FeatureBank(store.folder("features", inputs), len(pack), extract, "band statistics")


@dataclass(frozen=True)
class Beside:
    """The features of two banks beside each other."""

    one: FeatureBank
    other: FeatureBank

    def get(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D + E) float32. Under torchrun all ranks call it together."""
        return torch.cat([self.one.get(rows), self.other.get(rows)], 1)
