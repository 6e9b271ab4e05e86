"""Frozen features, each computed once: a bank on disk that fills as rows are asked for.

Whatever labelled subset, seed, classifier or regularisation strength asks, the features of an image under given weights
are the same; so they are kept in the store, and a second sweep over the same backbone costs seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsssl.augment import prepare, symmetries
from rsssl.data.pack import Pack
from rsssl.data.pool import stored
from rsssl.engine.device import autocast, on_device, precision
from rsssl.engine.distributed import broadcast, collect, rank, world_size
from rsssl.engine.files import explain_os_error, lock_of, locked, write_sealed
from rsssl.engine.progress import Progress
from rsssl.engine.step_memory import images_at_once
from rsssl.engine.store import AGAIN, DONE, INPUTS, Store, is_artifact, touch
from rsssl.engine.users import in_use
from rsssl.evaluation.bank_files import CHUNK, BankFiles
from rsssl.evaluation.on_disk import OnDisk
from rsssl.models.folded import folded
from rsssl.models.maps import check_size
from rsssl.models.preprocess import Preprocess
from rsssl.models.statistics import band_statistics
from rsssl.records import Damaged, read_sealed

log = logging.getLogger(__name__)
MANY = 5000  # images from which on it is said that their features take a while
FEATURES_VERSION = 4  # raised when a change of the code changes the features of the same weights and images

Extract = Callable[[np.ndarray], Tensor]  # rows of a pack -> (n, D) float32 features


class FeatureBank:
    """Features of a pack's images in `folder`, by row.

    A row is known by the checksum of its features: what is damaged is as if it had never been computed.

    Args:
        folder: of the bank's files (bank_files.py).
        n_rows: images in the pack.
        extract: computes the features of rows that are missing.
        title: stands before the progress.
        record: "inputs", which the folder's name is a hash of, and "of", what task=store says of it.
    """

    def __init__(
        self,
        folder: Path,
        n_rows: int,
        extract: Extract,
        title: str = "features",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.extract, self.title = folder, extract, title
        self.files = BankFiles(folder, n_rows)
        self.record = {"stage": "features", "rows": n_rows, **(record or {})}

    @property
    def width(self) -> int:
        """D; 0 before any row was computed."""
        return self.files.width()

    def get(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D) float32, on the CPU; what is missing is computed and kept. See `complete`."""
        self.complete(rows)
        return self.read(rows)

    def kept(self, rows: np.ndarray) -> OnDisk:
        """The same features, which stay on the disk until they are asked for."""
        self.complete(rows)
        return OnDisk(self, rows)

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
        in_use(self.folder)
        with locked(lock_of(self.folder)):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                missing = broadcast(self._missing(np.unique(rows)))
                self._describe()
                if len(missing):
                    self._compute(missing)
            except OSError as error:
                raise explain_os_error(error, self.folder) from error
            broadcast(None)

    def _describe(self) -> None:
        """Writes what the features are of, or says that they are used again."""
        try:
            read_sealed(self.folder / INPUTS, AGAIN)
            touch(self.folder / INPUTS)
        except Damaged:
            write_sealed(self.folder / INPUTS, self.record)

    def read(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D) float32, on the CPU, of rows that are complete."""
        return torch.from_numpy(self.files.read(rows))

    def _missing(self, rows: np.ndarray) -> np.ndarray:
        whole, damaged = self.files.whole(rows)
        for name, count in damaged.items():
            log.warning("%s: %d rows are damaged and computed again", self.folder / name, count)
        return rows[~whole]

    def _extract(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of the rows with their features (n, D), each made by one of the ranks, in order."""
        chunks = [missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)]
        with Progress(self.title, len(missing), "images") as progress:
            for i in range(0, len(chunks), world_size()):
                turn = chunks[i : i + world_size()]
                features = self.extract(turn[rank()]).float().cpu().numpy() if rank() < len(turn) else None
                yield from zip(turn, collect(features), strict=False)  # fewer chunks than ranks, in the end
                progress.update(sum(map(len, turn)))

    def _compute(self, missing: np.ndarray) -> None:
        if len(missing) >= MANY:
            log.info("%s of %d images are computed, once", self.title, len(missing))
        for rows, features in self._extract(missing):
            self.files.write(rows, features)


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
        trained: the backbone's weights change between two calls.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        pack: Pack,
        preprocess: Preprocess,
        device: torch.device,
        symmetry: int = 0,
        trained: bool = False,
    ) -> None:
        self.build, self.pack, self.preprocess = build, pack, preprocess.of(pack.card)
        self.device, self.symmetry, self.trained = device, symmetry, trained
        self._model: nn.Module | None = None
        self._at_once = 0

    @torch.inference_mode()
    def __call__(self, rows: np.ndarray) -> Tensor:
        """Rows (n,) of the pack -> features (n, D)."""
        if self._model is None:
            self._model = self._made()
        self._model.eval()  # one that is trained is put back into training between two calls
        if not self._at_once:
            self._at_once = images_at_once(self._model, self._seen(rows[:1]), CHUNK)
        with autocast(self.device):
            return torch.cat([self._model(self._seen(part)) for part in parts_of(rows, self._at_once)])

    def _made(self) -> nn.Module:
        """The backbone on the device."""
        model, size = self.build(), self.preprocess.size
        check_size(model, size, "image_size")
        return on_device(model if self.trained else folded(model, self.pack.card.n_bands, size), self.device)

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
    inputs = seen(pack, preprocess) | {
        "weights": weights.hash,
        "precision": precision(device),
        "symmetry": symmetry,
    }
    extract = Extractor(weights.build, pack, preprocess, device, symmetry)
    of = {"network": weights.spec["name"]}
    if weights.file and is_artifact(weights.file.parent):
        in_use(weights.file.parent)
        touch(weights.file.parent / DONE)
        of["weights"] = weights.file.parent.name
    return bank_of(store, pack, inputs, of, extract, "features")


def statistics_bank(store: Store, pack: Pack, preprocess: Preprocess, device: torch.device) -> FeatureBank:
    """The statistics of the bands of a pack's images as a network sees them, kept in the store."""
    preprocess = preprocess.of(pack.card)

    def extract(rows: np.ndarray) -> Tensor:
        return band_statistics(prepare(stored(pack, rows, device), preprocess)).cpu()

    name = "band statistics"
    return bank_of(store, pack, seen(pack, preprocess) | {"weights": name}, {"network": name}, extract, name)


def seen(pack: Pack, preprocess: Preprocess) -> dict[str, Any]:
    """The images of a pack as a network sees them: what features follow from, beside its weights."""
    return {
        "pixels": pack.fingerprint,
        "size": preprocess.size,
        "low": pack.card.low,
        "high": pack.card.high,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }


def bank_of(
    store: Store, pack: Pack, inputs: Mapping[str, Any], of: Mapping[str, str], extract: Extract, title: str
) -> FeatureBank:
    """The bank in the store of a pack's images.

    Args:
        store: where it lies.
        pack: the images.
        inputs: what the features follow from.
        of: what task=store says of them: "network", and "weights", the artefact that they need.
        extract: computes them.
        title: stands before the progress.
    """
    inputs = {"version": FEATURES_VERSION, **inputs}
    record = {"inputs": inputs, "of": {"dataset": pack.card.name, "pack": pack.folder.name, **of}}
    return FeatureBank(store.folder("features", inputs), len(pack), extract, title, record)


@dataclass(frozen=True)
class Beside:
    """The features of two banks beside each other."""

    one: FeatureBank
    other: FeatureBank

    @property
    def width(self) -> int:
        """D + E."""
        return self.one.width + self.other.width

    def get(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D + E) float32. Under torchrun all ranks call it together."""
        return torch.cat([self.one.get(rows), self.other.get(rows)], 1)

    def kept(self, rows: np.ndarray) -> OnDisk:
        """The same features, which stay on the disk until they are asked for."""
        self.one.complete(rows)
        self.other.complete(rows)
        return OnDisk(self, rows)

    def read(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D + E) float32 of rows that are complete."""
        return torch.cat([self.one.read(rows), self.other.read(rows)], 1)
