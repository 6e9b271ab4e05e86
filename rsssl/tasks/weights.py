"""Which frozen weights an evaluation looks at: just pre-trained, read from a checkpoint, ImageNet's, or random."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from rsssl.data.prepared import Data
from rsssl.engine.files import sha256
from rsssl.engine.store import Store, digest
from rsssl.errors import UserError
from rsssl.models.backbone import describe_backbone, read_backbone, save_backbone
from rsssl.networks.load import find_weights
from rsssl.tasks.common import canonical, plain
from rsssl.tasks.pretrain import WEIGHTS, pretrain, view_size

NETWORK = ("name", "kwargs", "depths")  # the keys of a backbone's config that say what network it is


@dataclass(frozen=True)
class Weights:
    """A backbone to evaluate, and how images must be presented to it.

    `build` makes the network (a new one at each call), `backbone` is its name and kwargs, `hash` names its weights, and `record`
    is what the results say of the pre-training, None for weights that were not pre-trained here. `file` holds the weights, None
    where `build` makes them.
    """

    build: Callable[[], nn.Module]
    backbone: dict[str, Any]
    hash: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    record: dict[str, Any] | None = None
    file: Path | None = None


def resolve(cfg: DictConfig, store: Store, data: Data) -> Weights:
    """The weights that `checkpoint=`, else `ssl=` (pre-training when the store has none yet), asks for."""
    if cfg.checkpoint:
        return from_file(find_checkpoint(cfg.checkpoint, store), data)
    if cfg.ssl.get("_target_") is None:
        return untrained(cfg, data, random=False)
    artifact, todo = pretrain(cfg, store)
    training = json.loads((artifact.folder / "training.json").read_text())
    record = {
        "artifact": artifact.hash,
        "folder": str(artifact.folder),
        "dataset": "+".join(d.pack.card.name for d in todo.parts),
        "images": training["images"],
        "epochs": training["epochs"],
        "images_per_second": training["images_per_second"],
        "seconds": training["seconds"],
        "reused": artifact.reused,
    }
    return from_file(artifact.folder / WEIGHTS, data, record)


def untrained(cfg: DictConfig, data: Data, random: bool, like: Weights | None = None) -> Weights:
    """The backbone as it starts: `random` weights, or those that backbone.pretrained and backbone.weights name.

    With `like`, the same network at the same size as those weights, whatever the config says: what a baseline has to be.

    Images are standardised with the statistics of the evaluated dataset's own pool.
    """
    start = plain(cfg.backbone) | ({"pretrained": False, "weights": None} if random else {})
    if like:
        start |= like.backbone
    inputs: dict[str, Any] = {"backbone": canonical(start), "seed": cfg.pretrain.seed, "bands": data.pack.card.n_bands}
    if start["weights"]:
        inputs["file"] = sha256(Path(start["weights"]).expanduser().read_bytes())
    size = like.size if like else view_size(cfg, [data])

    def build() -> nn.Module:
        return instantiate(start, in_chans=data.pack.card.n_bands, seed=cfg.pretrain.seed)

    network = {k: start[k] for k in NETWORK}
    return Weights(build, network, digest(inputs), size, data.mean, data.std)


def from_file(file: Path, data: Data, record: dict[str, Any] | None = None) -> Weights:
    """The backbone kept in a file, with its sensor card.

    Raises:
        UserError: when the weights were made for other bands than the dataset has.
    """
    spec, metadata = describe_backbone(file)  # the network itself is built when features are missing
    card = json.loads(metadata["card"])
    ours = data.pack.card
    if len(card["bands"]) != ours.n_bands:
        raise UserError(
            f"{file} was trained on {len(card['bands'])} bands ({', '.join(card['bands'])}) and {ours.name} has {ours.n_bands} "
            f"({', '.join(ours.bands)}): type dataset.select=[...] with the bands that match, or pre-train on this dataset"
        )
    theirs, named = [str(b).lower() for b in card["bands"]], [b.lower() for b in ours.bands]
    if theirs != named and sorted(theirs) == sorted(named):
        raise UserError(
            f"{file} was trained on the bands in another order ({', '.join(card['bands'])}) than {ours.name} has them "
            f"({', '.join(ours.bands)}): type 'dataset.select=[{','.join(ours.bands[named.index(b)] for b in theirs)}]'"
        )
    record = record or {"artifact": file.parent.name, "folder": str(file.parent), "reused": True}
    return Weights(
        lambda: read_backbone(file)[0],
        {k: spec[k] for k in NETWORK if k in spec},
        sha256(file.read_bytes())[:16],
        int(metadata["image_size"]),
        tuple(card["mean"]),
        tuple(card["std"]),
        record,
        file,
    )


def kept(weights: Weights, data: Data, store: Store) -> Path:
    """The file of the weights; those that were not pre-trained here get one in the store."""
    if weights.file is not None:
        return weights.file
    card = data.pack.card.to_dict() | {"mean": weights.mean, "std": weights.std}

    def build(folder: Path) -> None:
        save_backbone(weights.build(), folder / WEIGHTS, {"card": json.dumps(card), "image_size": str(weights.size)})

    return store.get("backbone", {"weights": weights.hash, "card": card, "size": weights.size}, build).folder / WEIGHTS


def find_checkpoint(path: str, store: Store) -> Path:
    """The weights' file for `checkpoint=`: itself, or that of a run directory, of any folder with one, of a hash in the store.

    Raises:
        UserError: when there is none, or more than one to choose from.
    """
    return find_weights(path, store.root / "pretrain" / path)
