"""A dataset decoded once: `images.bin`, raw (N, C, H, W) in the source's own integer type, and what is known of it.

    folder/card.json     sensor card, counts, sums, checksums of the other files; sealed, written last, at most 4 kB
    folder/images.bin    the pixels
    folder/names.bin     names of the images: (N + 1) int64 where each begins, then their text
    folder/ids.bin       (N,) uint64, what random draws know each image by (names.py)
    folder/moments.bin   (N, C, 3) float64: valid pixels, sum, sum of squares of every image and band, in 0..1 units
    folder/labels.bin    (N,) int64, where there are labels
    folder/places.bin    (N,) Ground.RECORD, of windows of scenes: where they lie
    folder/blocks.bin    (B,) uint32, the CRC-32 of each block of pixels that is read at once from object storage
    folder/skipped.json  images left out, with reasons, where there are any
    folder/classes.json  the classes' names, where they are too many for the card

Opening reads the card; the other files are mapped when they are asked for, so that neither its time nor its memory
depends on N. (The card of a sensor of many dozen bands is longer.) After the pack nothing needs GDAL or Pillow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data import first_kind
from rsssl.data.ground import RECORD, Ground
from rsssl.data.handles import Descriptor, Handle
from rsssl.data.names import Names
from rsssl.data.reads import read_rows
from rsssl.data.remote_file import tiles_of_block
from rsssl.engine.files import sha256_of
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.records import parse_json, read_json, read_list, unsealed

PACK_VERSION = 1  # of how images are brought into form: a change makes all packs stale
CARD = "card.json"
CHECKED = 1 << 20  # bytes of a file that is compared with its checksum whenever the pack is opened


class Pack:
    """A finished pack of N images.

    Args:
        folder: where it lies.
        card: what the numbers in the pixels mean.
        meta: the rest of its card.json.
        columns: what the files beside it hold, by "names", "ids", "labels", "moments", "ground" and "skipped".

    Attributes:
        sums: (C, 3) float64, the moments of all images together.
        done: how many images were converted or resized.
        n_skipped: how many were left out.
        fingerprint: sha256 of all content.
        source: the listing hash of the files that it was made from.
        root: the folder that they lay in.
        labelled: whether any image has a label.
    """

    remote = False  # whether the pixels are in object storage

    def __init__(
        self, folder: Path, card: SensorCard, meta: Mapping[str, Any], columns: Mapping[str, Callable[[], Any]]
    ) -> None:
        self.folder, self.card, self._n, self._columns = folder, card, int(meta["n"]), columns
        self.sums = np.array(meta["sums"], np.float64).reshape(card.n_bands, 3)
        self.done: dict[str, int] = meta["done"]
        self.n_skipped: int = meta["skipped"]
        self.fingerprint, self.source, self.root = (str(meta[k]) for k in ("fingerprint", "source", "root"))
        self._files: Mapping[str, Sequence[Any]] = meta["files"]
        self.labelled: bool = meta.get("labelled", "labels.bin" in self._files)
        self.pixels = Handle(partial(Descriptor, f"{folder}/images.bin"))  # of those who read them by themselves

    def __len__(self) -> int:
        return self._n

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.card.n_bands, *self.card.size)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image."""
        return int(np.prod(self.image_shape)) * np.dtype(self.card.dtype).itemsize

    @property
    def images(self) -> np.ndarray:
        """(N, C, H, W), mapped: pages that were touched count as memory of this process, those of `read` do not."""
        return mapped(f"{self.folder}/images.bin", self.card.dtype, (self._n, *self.image_shape))

    @cached_property
    def paths(self) -> Names:
        """Names of the images, relative to the source."""
        return Names(self._n, self._columns["names"], self._columns["ids"])

    @cached_property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of files, as they were written."""
        return {name: digest for name, (_, digest) in self._files.items()}

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, -1 for an unlabelled image; mapped."""
        labels: np.ndarray = self._columns["labels"]()
        return labels

    @property
    def moments(self) -> np.ndarray:
        """(N, C, 3) float64, see above; mapped."""
        moments: np.ndarray = self._columns["moments"]()
        return moments

    @property
    def ground(self) -> Ground | None:
        """Where the images lie, of windows of scenes; mapped."""
        ground: Ground | None = self._columns["ground"]()
        return ground

    @cached_property
    def skipped(self) -> dict[str, str]:
        """The reason for every image left out, by its path."""
        skipped: dict[str, str] = self._columns["skipped"]()
        return skipped

    @property
    def parts(self) -> Sequence[Pack]:
        """The packs that the images lie in, one after the other: this one."""
        return [self]

    @property
    def sha256(self) -> str:
        """Of `images.bin`."""
        return self.checksums["images.bin"]

    def block_rows(self) -> np.ndarray:
        """The first image of each block that pixels are read in from object storage, see remote_file.py."""
        return np.arange(0, self._n, tiles_of_block(self.image_bytes))

    def prefetch(self, rows: np.ndarray) -> None:
        """Fetches the blocks of these images in the background, where the pixels are not on this machine."""

    @classmethod
    def open(cls, folder: str | Path) -> Pack:
        """Open a finished pack; see `open_packed` for a dataset in many.

        Raises:
            FileNotFoundError: when there is none.
            UserError: when it is damaged.
        """
        return cls(Path(folder), *opened(Path(folder)))

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images as they are stored: read, in the file's order, and not mapped.

        Args:
            rows: (n,) numbers of images.
            out: (n, C, H, W) of the card's type, C-contiguous, to read into; None for a new array.

        Returns:
            (n, C, H, W).

        Raises:
            OSError: when the file has become shorter.
        """
        out = self._room(rows, out)
        try:
            file = self.pixels()
            read_rows(file.number, np.asarray(rows), self.image_bytes, out)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder / "images.bin")) from error
        return out

    def _room(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        return np.empty((len(rows), *self.image_shape), self.card.dtype) if out is None else out

    def verify(self) -> None:
        """Compare all files with their checksums; UserError when one differs."""
        for name, digest in self.checksums.items():
            if sha256_of(self.folder / name) != digest:
                raise damaged(self.folder, f"checksum of {name}")


def opened(
    folder: Path, elsewhere: Container[str] = ()
) -> tuple[SensorCard, dict[str, Any], dict[str, Callable[[], Any]]]:
    """What a `Pack` is made of besides its folder; some files may lie elsewhere. Raises what `Pack.open` does."""
    file = folder / CARD
    content = file.read_bytes()
    try:
        meta = parse_json(content, file, again(folder))
        if "paths" in meta:
            meta, columns = first_kind.read(folder, meta)
        else:
            meta = unsealed(meta, file, again(folder))
            columns = columns_of(folder, meta)
        check_files(folder, {name: of for name, of in meta["files"].items() if name not in elsewhere})
        card = SensorCard.from_dict(meta["card"])
        if "classes.json" in meta["files"]:
            card = replace(card, classes=tuple(read_list(folder / "classes.json", again(folder))))
        return card, meta, columns
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise damaged(folder, error) from error


def mapped(file: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A file's content as a plain array, which keeps the file open."""
    return np.memmap(file, dtype, "r", shape=shape).view(np.ndarray)


def columns_of(folder: Path, meta: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What the files of a pack hold: mapped when they are asked for, and let go of when others are."""
    n, files, where = meta["n"], meta["files"], os.fspath(folder)  # a thousand packs make thousands of paths

    def column(name: str, dtype: Any, *shape: int) -> Callable[[], np.ndarray]:
        return Handle(partial(mapped, f"{where}/{name}", dtype, shape))

    places = column("places.bin", RECORD, n) if "places.bin" in files else None
    text = files["names.bin"][0] if "names.bin" in files else 0
    return {
        "names": column("names.bin", np.uint8, text),
        "ids": column("ids.bin", "<u8", n),
        "moments": column("moments.bin", "<f8", n, len(meta["card"]["bands"]), 3),
        "labels": column("labels.bin", "<i8", n) if "labels.bin" in files else partial(unlabelled, n),
        "ground": lambda: places and Ground.of_records(places()),
        "skipped": lambda: read_json(folder / "skipped.json", again(folder)) if "skipped.json" in files else {},
    }


def unlabelled(n: int) -> np.ndarray:
    """The labels of n unlabelled images, which take no memory: (n,) int64, all -1."""
    return np.broadcast_to(np.int64(-1), (n,))


def check_files(folder: Path, files: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError, or OSError, when a file is not as large as it was, or a small one is not what was written."""
    where = os.fspath(folder)
    for name, (size, digest) in files.items():
        if (found := os.stat(f"{where}/{name}").st_size) != size:
            raise ValueError(f"{name} does not hold {size} bytes, but {found}")
        if size <= CHECKED and sha256_of(folder / name) != digest:
            raise ValueError(f"checksum of {name}")


def again(folder: Path) -> str:
    """What to type for a damaged pack."""
    return f"remove it to have it made again: rm -r '{folder}'"


def damaged(folder: Path, reason: object) -> UserError:
    return UserError(f"The pack {folder} is damaged ({reason}): {again(folder)}")
