"""A dataset as its YAML describes it. Light: it knows where the images lie and what they are, and reads none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsssl.data.catalog import Catalog, scan, source_listing
from rsssl.errors import UserError


@dataclass
class Dataset:
    """One folder of images, a class per folder.

    root: the folder. classes: official names in order (null: every folder is a class; []: unlabelled).
    bands: names of the bands in the files, in order (null: taken from the files). select: the bands to keep, in order.
    valid_range: [low, high], or such a pair for each band of the files, or for each selected one, in the pixels' units;
      null: 0..255 for uint8, the 0.1 and 99.9 percentiles of a sample otherwise. nodata: a pixel value that means "nothing here".
    native_size: the publisher's tile size in pixels, used when the files differ in size; size: resize to this.
    gsd: metres per pixel. url, md5: the publisher's archive, fetched with `download: true` when the root is missing.
    on_error: "raise" stops at the first unusable image, "skip" leaves them out and counts them.
    generate: arguments of `rsssl.data.synthetic.generate`, for the built-in dataset.
    """

    name: str
    root: str | None = None
    classes: Sequence[str] | None = None
    bands: Sequence[str] | None = None
    select: Sequence[str] | None = None
    valid_range: Any = None
    nodata: float | None = None
    native_size: int | None = None
    size: int | None = None
    gsd: float | None = None
    url: str | None = None
    md5: str | None = None
    homepage: str | None = None
    on_error: str = "raise"
    split_seed: int = 0
    test_fraction: float = 0.2
    generate: Mapping[str, Any] | None = None
    download: bool = False

    def __post_init__(self) -> None:
        for field in ("classes", "bands", "select"):
            value = getattr(self, field)
            setattr(self, field, None if value is None else tuple(str(v) for v in value))
        if self.on_error not in ("raise", "skip"):
            raise UserError(f"dataset.on_error={self.on_error} is unknown: type dataset.on_error=raise or skip")
        for band in self.select or ():
            if self.bands is not None and band not in self.bands:
                raise UserError(
                    f"dataset.select names {band}, which is not a band of {self.name}: "
                    f"type dataset.select=[...] with names from {', '.join(self.bands)}"
                )

    def hint(self) -> str:
        """Where to put the data and what to type: the end of every "there is nothing here" message."""
        some = [f"{c}/" for c in (self.classes or ())[:2]]
        layout = f"{', '.join(some)}, ..." if some else "<class>/"
        text = f"They are published at {self.homepage}. " if self.homepage else ""
        text += f"Put the images there as one folder per class ({layout}), or type dataset.root=/path/to/{self.name}"
        if self.url and not self.download:
            text += "; to fetch them from their publisher, type dataset.download=true"
        return text

    def located(self) -> Path:
        """The root folder; UserError when there is none and none will be made, naming where to put the data."""
        if not self.root:
            raise UserError(f"dataset={self.name} needs the folder of the images: type dataset.root=/path/to/images")
        root = Path(self.root).expanduser()
        if not root.exists() and self.generate is None and not self.download:
            raise UserError(f"The image folder {root} does not exist. {self.hint()}")
        return root

    def catalog(self) -> Catalog:
        """The images found under the root; makes the synthetic dataset, or downloads, when that is asked for.

        Raises UserError when there is no root, naming where to put the data and what to type.
        """
        root = self.located()
        if self.generate is not None:
            from rsssl.data.synthetic import ensure

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

    def listing(self) -> str:
        """A hash of every file's path, size and modification time; a change of it means: pack again."""
        return source_listing(self.catalog())
