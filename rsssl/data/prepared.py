"""Datasets as the tasks use them: packed once, split, with the statistics of the pool."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.catalog import Catalog, Source, name_of
from rsssl.data.chunks import mean_std, moment_sums
from rsssl.data.dataset import Dataset
from rsssl.data.decode import unusable
from rsssl.data.finished import Finished, FinishedPack
from rsssl.data.ground import Ground, affordable_block, default_block, ground_split
from rsssl.data.hashed_split import hashed_split
from rsssl.data.known_tree import known_tree, remember
from rsssl.data.locate import tile_ground
from rsssl.data.pack import PACK_VERSION, Pack
from rsssl.data.packing import pack
from rsssl.data.packs import open_packed
from rsssl.data.parts import is_parted, pack_parts
from rsssl.data.rows import Indices, Rows
from rsssl.data.split import Split, refuse_too_few, split
from rsssl.engine.files import json_bytes, write_atomic
from rsssl.engine.ranks import rank
from rsssl.engine.store import Artifact, Store, digest, is_finished
from rsssl.errors import UserError

log = logging.getLogger(__name__)
AT_ONCE = 1 << 16  # images whose moments are in memory
RANKED = 1 << 22  # images of which a test set is ranked, class by class; of more it is drawn by the hash of each


@dataclass(frozen=True)
class Data:
    """A packed dataset with its fixed test set.

    Args:
        dataset: the images.
        pack: their pixels.
        split: which of them test.
        mean: per band of the pool, in 0..1 units.
        std: the same.
        ground: where the images lie, when they are divided by it.
        block: metres that training and test keep from each other then.
    """

    dataset: Dataset
    pack: Pack
    split: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ground: Ground | None = None
    block: float | None = None

    def at_random(self) -> Data:
        """The same images divided without regard to where they lie, as is often done, and too good."""
        known = np.flatnonzero(self.pack.labels >= 0)
        paths = self.pack.paths.select(known)
        drawn = split(paths, self.pack.labels[known], self.dataset.split_seed, self.dataset.test_fraction)
        test = known[drawn.test]
        return replace(self, split=Split(test, np.setdiff1d(np.arange(len(self.pack)), test), drawn.hash), ground=None)


# Keys of a dataset that cannot change the packed pixels: the same images are packed once, whatever the dataset is
# called. The card on the disk has the name of the first dataset that packed them.
NOT_IN_THE_PACK = (
    *("name", "on_error", "split_seed", "test_fraction", "block", "colours"),
    *("url", "md5", "homepage", "download", "generate"),
    "list",  # what stands in it is in the listing
)
INDEX = ".index"  # what the headers of archives say, in the folder of an unfinished pack


def load(
    dataset: Dataset,
    store: Store,
    workers: int | None,
    protocol: str = "clean",
    tiles: int | None = None,
    ts: int | float | str = "all",
) -> Data:
    """Packs the dataset unless the store has it, and draws its test set.

    Args:
        dataset: the images.
        store: where the pack is kept; what was opened stays open there for the other jobs of a sweep.
        workers: processes that decode images; None for as many as there are cores.
        protocol: with "validation" the test set stays closed: the pool is divided once more, and a part of it plays the
            test set.
        tiles: images of a pack, at most; a larger dataset becomes several. None: one pack.
        ts: labels per class that will be asked for; where folders have too few, that is told before they are packed.

    Raises:
        UserError: when the imagery is missing or unusable, naming what to type.
    """
    begun, settings = time.time_ns(), {k: v for k, v in asdict(dataset).items() if k not in NOT_IN_THE_PACK}
    source = source_in(dataset, store, settings)
    if type(source) is Catalog and not dataset.block and len(source) <= RANKED:  # else what tests is not known yet
        divisions = 1 + (protocol == "validation")
        refuse_too_few(source.labels, source.classes, ts, dataset.test_fraction, divisions)
    inputs = {"settings": settings | {"root": source.root}, "listing": source.listing(), "version": PACK_VERSION}
    division = [dataset.split_seed, dataset.test_fraction, dataset.block, protocol == "validation"]
    called = {"name": dataset.name, "on_error": dataset.on_error}
    key = digest({"pack": inputs, "split": division, **called})
    before = inputs | {"settings": settings | {"root": source.root} | called}  # the key of an earlier rsssl
    inputs = before if is_finished(store.folder("pack", before)) else inputs
    if key not in store.opened or not is_finished(store.opened[key].pack.folder):
        artifact = packed_in(store, inputs, dataset, source, workers, tiles)
        if isinstance(source, Catalog):
            remember(source, dataset, store, settings, artifact.folder, begun)
        packed = (
            source.open(artifact.folder, store) if isinstance(source, Finished) else named(dataset, artifact.folder)
        )
        report_skipped(packed)
        ground = packed.ground
        if ground is None and dataset.block and not isinstance(source, Finished):
            ground = tiles_on_the_ground(dataset, source, packed, store)
        block = block_of(dataset, packed, ground)
        divided = divide(dataset, packed, ground, block, protocol == "validation")
        save_split(artifact.folder, packed, divided)
        store.opened[key] = Data(dataset, packed, divided, *statistics((packed, divided.pool)), ground, block)
        log_data(store.opened[key], source.root)
    data: Data = store.opened[key]
    return data


def source_in(dataset: Dataset, store: Store, settings: Mapping[str, Any]) -> Source | Finished:
    """The images, listed unless they are a large tree that is known, or packed already."""
    if isinstance(dataset, FinishedPack):
        return dataset.finished()
    return (dataset.generate is None and known_tree(dataset, store, settings)) or dataset.source()


def packed_in(
    store: Store,
    inputs: dict[str, Any],
    dataset: Dataset,
    source: Source | Finished,
    workers: int | None,
    tiles: int | None,
) -> Artifact:
    """The pack of a dataset in the store, made where it is not there: a large one together with all other processes
    that want it now, a small one by one of them. Of a finished one, what is kept on this machine."""
    if isinstance(source, Finished):
        return store.get("pack", inputs, source.fetch)

    def build(folder: Path) -> Pack:
        catalog = source.catalog(folder / INDEX)
        if is_parted(folder, len(catalog), tiles):
            return pack_parts(dataset, folder, tiles, workers, catalog=catalog)
        return pack(dataset, folder, workers, catalog=catalog)

    if not is_finished(store.folder("pack", inputs)):
        folder = store.begin("pack", inputs)
        catalog = source.catalog(folder / INDEX)
        if is_parted(folder, len(catalog), tiles):
            pack_parts(dataset, folder, tiles, workers, catalog=catalog)
    artifact = store.get("pack", inputs, build)
    shutil.rmtree(artifact.folder / INDEX, ignore_errors=True)
    return artifact


def named(dataset: Dataset, folder: Path) -> Pack:
    """The pack in a folder, called as the dataset is.

    Raises:
        UserError: when images were left out of it that this dataset does not let be.
    """
    packed = open_packed(folder)
    packed.card = replace(packed.card, name=dataset.name)
    if packed.n_skipped and dataset.on_error == "raise":  # it was packed with dataset.on_error=skip
        path, reason = next(iter(packed.skipped.items()))
        raise unusable(name_of(packed.root, path), reason)
    return packed


def divide(dataset: Dataset, packed: Pack, ground: Ground | None, block: float | None, validation: bool) -> Split:
    """Draws the test set of a pack; for `validation` once more, of the pool alone: then it is in neither part."""
    if len(packed) > RANKED and ground is None:
        return hashed_split(packed, dataset.split_seed, dataset.test_fraction, validation)
    divided = divide_rows(dataset, packed, np.arange(len(packed)), ground, block)
    return divide_rows(dataset, packed, np.asarray(divided.pool), ground, block) if validation else divided


def divide_rows(dataset: Dataset, packed: Pack, rows: np.ndarray, ground: Ground | None, block: float | None) -> Split:
    """Draws a test set among some rows of a pack."""
    paths, labels = packed.paths.select(rows), packed.labels[rows]
    drawn = dataset.split_seed, dataset.test_fraction
    if ground is None or block is None:
        inner = split(paths, labels, *drawn)
    else:
        inner = ground_split(ground.rows(rows), paths, labels, packed.card.classes, *drawn, block)
    return Split(rows[inner.test], rows[inner.pool], inner.hash)


def block_of(dataset: Dataset, packed: Pack, ground: Ground | None) -> float | None:
    """Metres between training and test; None for images that do not say where they lie."""
    if ground is None or dataset.block:
        return dataset.block if ground is not None else None
    counts = np.maximum(packed.moments[..., 0], 1)
    alike = default_block(ground, packed.moments[..., 1] / counts)
    drawn = dataset.split_seed, dataset.test_fraction
    block = affordable_block(ground, packed.paths, packed.labels, *drawn, alike)
    if packed.labelled:
        less = ", and more would cost too many labels" if block < alike else ""
        text = "training and test keep %.0f m apart; images look alike up to %.0f m%s; dataset.block= sets it"
        log.info(text, block, alike, less)
    return block


def tiles_on_the_ground(dataset: Dataset, source: Source, packed: Pack, store: Store) -> Ground:
    """Where the tiles of a folder lie.

    Raises:
        UserError: when some of them do not say it.
    """
    if dataset.located() is None:
        raise UserError("dataset.block= needs tiles that are files in a folder of this machine: leave it out")
    inputs = {"listing": source.listing(), "skipped": sorted(packed.skipped)}

    def locate(folder: Path) -> None:
        tile_ground(source.root, packed.paths).save(folder / "ground.npz")

    ground = Ground.load(store.get("ground", inputs, locate).folder / "ground.npz")
    if lost := int(np.isnan(ground.lonlat).any(1).sum()):
        raise UserError(
            f"dataset.block={dataset.block:g} needs to know where the tiles lie, and {lost} of {len(packed)} in "
            f"{source.root} do not say: leave dataset.block out"
        )
    return ground


def report_skipped(packed: Pack) -> None:
    """Says once what was left out while packing (`dataset.on_error=skip`)."""
    if packed.n_skipped:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(packed.skipped.items())[:5])
        text = "%d unusable images were left out (skipped.json beside card.json lists them all): %s"
        log.warning(text, packed.n_skipped, shown)


def save_split(folder: Path, packed: Pack, division: Split) -> None:
    """The test set by its paths, beside the pack, under the hash that results carry; a large one stays a bitmap."""
    if isinstance(division.test, Rows):
        return
    file = folder / f"split-{division.hash[:16]}.json"
    content = json_bytes({"hash": division.hash, "test": packed.paths.select(division.test)})
    if rank() == 0 and not (file.is_file() and file.read_bytes() == content):
        write_atomic(file, content)


def log_data(data: Data, root: str) -> None:
    """One line that says what the images are."""
    card, shape = data.pack.card, " x ".join(map(str, (*data.pack.card.size, data.pack.card.n_bands)))
    classes = f"{len(card.classes)} classes" if card.classes else "no classes"
    parts = f"pool {len(data.split.pool):,}, test {len(data.split.test):,}"
    log.info(f"{card.name} from {root}: {len(data.pack):,} images of {shape}, {classes}; {parts}")


def need_labels(data: Data) -> None:
    """Raises UserError for a dataset that cannot be evaluated on."""
    classes = data.pack.card.classes
    if len(classes) == 1:
        raise UserError(
            f"{data.dataset.root} holds only one class ({classes[0]}), and a classifier tells at least two apart: put "
            "images of another class into a folder beside it, or type task=pretrain to pre-train on these alone"
        )
    if not classes or not data.pack.labelled:
        raise UserError(
            f"{data.dataset.root} has no class folders, so a classifier cannot be trained or tested on it: "
            "type task=pretrain to pre-train on it alone, or name a labelled dataset= beside pretrain.root="
        )


def statistics(*pools: tuple[Pack, Indices]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-band mean and std (0..1 units) of the valid pixels of one pool, or of several together."""
    sums = np.zeros_like(pools[0][0].sums)
    for packed, rows in pools:
        if isinstance(rows, Rows) and rows.sums is not None:
            sums = sums + rows.sums
            continue
        for start in range(0, len(rows), AT_ONCE):
            sums = moment_sums(packed.moments[rows[start : start + AT_ONCE]], sums)
    mean, std = mean_std(sums)
    return tuple(mean.tolist()), tuple(std.tolist())
