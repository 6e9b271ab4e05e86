"""A dataset as its YAML describes it. Light: it knows where the images lie and what they are, and reads none."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.checks import positive
from rsssl.data.remote import is_remote
from rsssl.errors import UserError

if TYPE_CHECKING:
    from rsssl.data.catalog import Catalog, Source

Texts = list[str]  # within the class below `list` is the name of a key


@dataclass
class PackKeys:
    """The keys `pack.*`.

    Args:
        tiles: images of a pack, at most: a larger dataset becomes several. None: one pack, however large.
    """

    tiles: int | None

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            UserError: naming the key and what to type.
        """
        positive(pack__tiles=self.tiles)


@dataclass
class Dataset:
    """One folder of images, a class per folder. The values not given in `conf/dataset` stand in `conf/task/pack.yaml`.

    Args:
        name: of the dataset, as results call it.
        root: the folder; tar archives, by a pattern; or the address of either, s3://bucket/tiles.
        list: a list of the images, whose paths are relative to the root: a CSV, Parquet or text file, its address, or
            "-" for the standard input; None: all that is under the root.
        classes: official names in order; None: every folder is a class; []: unlabelled images.
        bands: names of the bands in the files, in order; None: taken from the files.
        select: the bands to use, in order; None: all.
        valid_range: [low, high], or such a pair for each band of the files, or for each selected one, in the pixels'
            units; None: 0..255 for uint8, the 0.1 and 99.9 percentiles of a sample otherwise.
        nodata: a pixel value that means "nothing here"; None: what the files declare.
        native_size: the publisher's tile size in pixels, used when the files differ in size.
        size: resize to this many pixels; None: as the files are.
        gsd: metres per pixel.
        url: the publisher's archive, fetched with `download` when the root is missing.
        md5: of the archive.
        homepage: where the images are published.
        on_error: "raise" stops at the first unusable image, "skip" leaves such images out and counts them.
        split_seed: draws the test set.
        test_fraction: the share of the test set; 0: all labels are learnt from, and tested by cross-validation.
        block: metres that training and test keep from each other, of images that say where they lie; None: files of
            their own are divided at random.
        colours: of classes on maps, "#2b6cb0" by name; None for the usual ones.
        generate: arguments of `rsssl.data.synthetic.generate`, for the built-in dataset.
        download: fetch the archive when the root is missing.
    """

    name: str
    root: str | None
    list: str | None
    classes: Texts | None
    bands: Texts | None
    select: Texts | None
    valid_range: Any
    nodata: Any
    native_size: int | None
    size: int | None
    gsd: float | None
    url: str | None
    md5: str | None
    homepage: str | None
    on_error: str
    split_seed: int
    test_fraction: float
    block: float | None
    colours: dict[str, str] | None
    generate: dict[str, Any] | None
    download: bool

    def check(self) -> None:
        """Refuses impossible values, before any data is read.

        Raises:
            UserError: naming the key and what to type.
        """
        if self.on_error not in ("raise", "skip"):
            raise UserError(
                f"dataset.on_error={self.on_error} is unknown: type dataset.on_error=raise or dataset.on_error=skip"
            )
        self.given_nodata()
        if not 0 <= self.test_fraction < 1:
            raise UserError(
                f"dataset.test_fraction={self.test_fraction} must be at least 0 and below 1: type "
                "dataset.test_fraction=0.2"
            )
        positive(dataset__block=self.block, dataset__gsd=self.gsd, dataset__size=self.size)
        positive(dataset__native_size=self.native_size)
        check_range(self.valid_range)
        for name, colour in (self.colours or {}).items():
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", str(colour)):
                raise UserError(
                    f"dataset.colours has {colour} for {name}: type a colour as six digits, {name}: '#2b6cb0'"
                )
        for band in self.select or ():
            if self.bands is not None and band not in self.bands:
                raise UserError(
                    f"dataset.select names {band}, which is not among the bands of {self.name}: type "
                    f"dataset.select=[...] with names from {', '.join(self.bands)}"
                )

    def given_nodata(self) -> float | None:
        """The pixel value that means "nothing here", where one was given.

        Raises:
            UserError: for what is no number.
        """
        if self.nodata is not None and not isinstance(self.nodata, int | float):
            raise UserError(f"dataset.nodata={self.nodata} is no number: type for example dataset.nodata=0")
        return self.nodata

    def hint(self) -> str:
        """Where to put the data and what to type: the end of every "there is nothing here" message."""
        some = [f"{c}/" for c in (self.classes or ())[:2]]
        layout = f"{', '.join(some)}, ..." if some else "<class>/"
        text = f"They are published at {self.homepage}. " if self.homepage else ""
        text += f"Put the images there as one folder per class ({layout}), or type dataset.root=/path/to/{self.name}"
        if self.url and not self.download:
            text += "; to fetch them from their publisher, type dataset.download=true"
        return text

    def located(self) -> Path | None:
        """The folder of the images; None where they are listed, in archives, or elsewhere than on this machine.

        Raises UserError where there is none and none will be made, naming where to put the data.
        """
        if self.list:
            return None
        if not self.root:
            raise UserError(f"dataset={self.name} needs the folder of the images: type dataset.root=/path/to/images")
        root = Path(self.root).expanduser()
        if is_remote(self.root) or root.suffix == ".tar":
            return None
        if not root.exists() and self.generate is None and not self.download:
            raise UserError(f"The image folder {root} does not exist. {self.hint()}")
        return root

    def catalog(self) -> Catalog:
        """The images. Raises what `source` does, and for archives what reading their headers does."""
        return self.source().catalog()

    def source(self) -> Source:
        """The images of the list, or found under the root; of archives what can be said without reading their headers.

        Makes the synthetic dataset, or downloads, when that is asked for. Raises UserError when there is no root,
        naming where to put the data and what to type.
        """
        from rsssl.data import shards

        if self.list:
            if not hasattr(self, "_listed"):  # the standard input can be read once
                from rsssl.data.lists import catalog_of

                self._listed = catalog_of(self.list, self.root, self.classes)
            return self._listed
        if self.root and (archives := shards.named(self.root)):
            return shards.Shards(archives, self.classes)
        from rsssl.data.scan import scan

        if (root := self.located()) is None:
            return scan(str(self.root), self.classes, hint=self.hint())
        if self.generate is not None:
            from rsssl.data.synthetic import ensure

            try:
                inspect.signature(ensure).bind(root, **self.generate)
            except TypeError as error:
                raise UserError(f"dataset.generate: {error}: type dataset=synthetic, which has all its keys") from None
            root = ensure(root, **self.generate)
        elif self.download and not root.exists():
            if not self.url or not self.md5:
                raise UserError(
                    f"dataset={self.name} has no download: its publisher offers none that a program may "
                    f"fetch. {self.hint()}"
                )
            from rsssl.data.download import fetch_and_extract

            fetch_and_extract(self.url, self.md5, root)
        return scan(root, self.classes, hint=self.hint())

    def class_colours(self) -> dict[str, str]:
        """The colours of classes by name that are given or kept with the labels."""
        return dict(self.colours or {})

    def listing(self) -> str:
        """A hash of every file's path, size and modification time; a change of it means: pack again."""
        return self.source().listing()


def check_range(valid_range: Any) -> None:
    """Refuses a `valid_range` that is neither a pair of numbers, the lower one first, nor a list of such pairs.

    Raises:
        UserError: with what to type.
    """
    if valid_range is None:
        return
    listed = valid_range if isinstance(valid_range, list | tuple) else [valid_range]
    pairs = listed if listed and isinstance(listed[0], list | tuple) else [listed]
    for pair in pairs:
        numbers = isinstance(pair, list | tuple) and all(type(v) in (int, float) and math.isfinite(v) for v in pair)
        if not numbers or len(pair) != 2 or not pair[0] < pair[1]:
            raise UserError(
                f"dataset.valid_range={valid_range} is no range of pixel values: type for example "
                "dataset.valid_range=[0,10000], or a list of such pairs, one for each band"
            )


def class_of(node: Mapping[str, Any]) -> type[Dataset]:
    """The kind of dataset that the `_target_` of its node names; `Dataset` where that is no such class."""
    from hydra.utils import get_class

    try:
        cls = get_class(str(node["_target_"]))
    except Exception:  # whatever a user's own file raises: said where all classes that are named are looked at
        return Dataset
    return cls if isinstance(cls, type) and issubclass(cls, Dataset) else Dataset
