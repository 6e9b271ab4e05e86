"""A pack that is finished already as a dataset: on this machine, or in object storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsssl.data.blocks import Blocks
from rsssl.data.dataset import Dataset
from rsssl.data.pack import CARD, Pack
from rsssl.data.packs import open_packed
from rsssl.data.remote import Remote, is_remote
from rsssl.data.remote_pack import card_of, fetch_columns, open_remote
from rsssl.engine.files import sha256, write_json
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.records import digest

# What the pack says itself, and nobody can change after it was made.
SETTLED = ("classes", "bands", "select", "valid_range", "nodata", "native_size", "size", "gsd", "url", "md5")


@dataclass
class FinishedPack(Dataset):
    """A finished pack, or a folder of them, as `rsssl-run task=pack` leaves it; `root` is its folder or its address,
    s3://bucket/folder, https://host/folder or another one that fsspec opens.
    """

    def check(self) -> None:
        super().check()
        for key in SETTLED:
            if getattr(self, key) is not None:
                raise UserError(
                    f"dataset.{key}={getattr(self, key)} has no meaning for dataset=pack, which was made without it: "
                    f"leave dataset.{key} out, or pack the images again with it"
                )

    def located(self) -> Path:
        if not self.root:
            raise UserError(
                "dataset=pack needs the folder or the address of a pack: type dataset.root=DIR or dataset.root=s3://..."
            )
        root = Path(self.root).expanduser()
        if not is_remote(self.root) and not (root / CARD).is_file():
            raise UserError(
                f"{root} is no finished pack: type dataset.root=DIR with the folder that rsssl-run task=pack names"
            )
        return root

    def finished(self) -> Finished:
        """The pack, not opened yet."""
        return Finished(self)

    def source(self) -> Any:
        return self.finished()


class Finished:
    """What `prepared.load` asks a catalog for, of a pack.

    Attributes:
        root: its folder or address.
    """

    def __init__(self, dataset: FinishedPack) -> None:
        folder = dataset.located()
        self.remote = Remote(str(dataset.root).rstrip("/")) if is_remote(dataset.root) else None
        self.root = self.remote.url if self.remote else str(folder.resolve())
        self.block = dataset.block

    def listing(self) -> str:
        """A hash of the pack's card, which changes with anything in the pack."""
        return digest(card_of(self.remote)) if self.remote else sha256((Path(self.root) / CARD).read_bytes())

    def fetch(self, folder: Path) -> None:
        """Makes the folder of what is kept on this machine of the pack."""
        if self.remote:
            fetch_columns(self.remote, folder)
        else:
            write_json(folder / "origin.json", {"pack": self.root})

    def open(self, folder: Path, store: Store) -> Pack:
        """The pack.

        Args:
            folder: that `fetch` has made.
            store: where blocks are kept.

        Raises:
            UserError: when it is damaged, or does not say where its tiles lie and `dataset.block` needs it.
        """
        if self.remote:
            if "blocks" not in store.opened:  # one for all packs, whose blocks it keeps open
                store.opened["blocks"] = Blocks(*store.blocks())
            packed = open_remote(self.remote, folder, store.opened["blocks"])
        else:
            packed = open_packed(self.root)
        if self.block and packed.ground is None:
            raise UserError(
                f"dataset.block={self.block:g} needs to know where the tiles lie, and the pack {self.root} does not "
                "say: leave dataset.block out"
            )
        return packed
