"""Which frozen weights an evaluation looks at: just pre-trained, read from a checkpoint, ImageNet's, or random."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from rsssl.data.prepared import Data
from rsssl.engine.files import sha256
from rsssl.engine.run import Run
from rsssl.engine.store import Store, digest
from rsssl.errors import UserError
from rsssl.evaluation.features import Weights
from rsssl.models.backbone import describe_backbone, read_backbone
from rsssl.networks.files import BACKBONE, preprocess_of, write_backbone
from rsssl.networks.load import find_weights
from rsssl.networks.plan import LARGEST, canonical, presented
from rsssl.networks.pretraining import pretrain
from rsssl.networks.recipe import Recipe
from rsssl.networks.starts import Start
from rsssl.networks.training import started

NETWORK = ("name", "kwargs", "depths")  # the keys of a backbone's config that say what network it is
RECORDED = ("artifact", "folder", "dataset", "images", "epochs", "images_per_second", "seconds", "reused")


def pretrained_or_train(recipe: Recipe, checkpoint: str | None, data: Data, run: Run) -> Weights:
    """The weights that `checkpoint=`, else `ssl=`, asks for; pre-trains when the store has none yet."""
    if checkpoint:
        return from_file(find_checkpoint(checkpoint, run.store), data)
    if recipe.ssl.get("_target_") is None:
        return untrained(recipe, instantiate(recipe.start, _convert_="all"), data, run)
    record = pretrain(recipe, data.dataset, run)
    return from_file(Path(record["weights"]), data, {k: record[k] for k in RECORDED})


def untrained(recipe: Recipe, start: Start, data: Data, run: Run, like: Weights | None = None) -> Weights:
    """The backbone as it starts.

    Args:
        recipe: which backbone.
        start: `Start()` for random weights.
        data: the evaluated dataset.
        run: whose store keeps what is fetched.
        like: the same network at the same size as these weights, whatever the recipe says: what a baseline has to be.
    """
    card, backbone = data.pack.card, recipe.backbone | (like.spec if like else {})
    asked = replace(recipe, backbone=backbone)
    preprocess = presented(asked, start, card, min(card.size), (data.mean, data.std))
    inputs: dict[str, Any] = {
        "backbone": canonical(backbone),
        "seed": recipe.pretrain.seed,
        "bands": card.n_bands,
        "start": start.identity(backbone["name"]),
    }
    return Weights(
        build=lambda: started(asked, start, card, run),
        spec={k: backbone[k] for k in NETWORK},
        hash=digest(inputs),
        preprocess=preprocess.at(like.preprocess.size) if like else preprocess,
    )


def from_file(file: Path, data: Data, record: dict[str, Any] | None = None) -> Weights:
    """The backbone kept in a file, with its sensor card.

    Raises:
        UserError: when the weights were made for other bands than the dataset has.
    """
    spec, metadata = describe_backbone(file)  # the network itself is built when features are missing
    trained = preprocess_of(file, metadata)
    card, bands = data.pack.card, trained.card.bands
    if len(bands) != card.n_bands:
        raise UserError(
            f"{file} was trained on {len(bands)} bands ({', '.join(bands)}) and {card.name} has {card.n_bands} "
            f"({', '.join(card.bands)}): type dataset.select=[...] with the bands that match, or pre-train on this "
            "dataset"
        )
    theirs, ours = [b.lower() for b in bands], [b.lower() for b in card.bands]
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise UserError(
            f"{file} was trained on the bands in another order ({', '.join(bands)}) than {card.name} has them "
            f"({', '.join(card.bands)}): type 'dataset.select=[{','.join(card.bands[ours.index(b)] for b in theirs)}]'"
        )
    start = json.loads(metadata.get("inputs", "{}")).get("start")
    record = record or {"artifact": file.parent.name, "folder": str(file.parent), "reused": True}
    return Weights(
        build=lambda: read_backbone(file)[0],
        spec={k: spec[k] for k in NETWORK if k in spec},
        hash=sha256(file.read_bytes())[:16],
        preprocess=trained.of(card),
        record=record | {"start": start} if start else record,
        file=file,
        start=start,
    )


def begun_from(weights: Weights, start: Start) -> Start | None:
    """The start, if weights were trained from it and it is not a random one: then it is a baseline."""
    try:
        return start if weights.start and weights.start == start.identity(weights.spec["name"]) else None
    except UserError:  # start= is that of this command: of the checkpoint's network there may be no such weights
        return None


def stored_file(weights: Weights, store: Store) -> Path:
    """The file of the weights; those that were not pre-trained here get one in the store."""
    if weights.file is not None:
        return weights.file
    preprocess = weights.preprocess
    card = preprocess.card.to_dict() | {"mean": preprocess.mean, "std": preprocess.std}

    def build(folder: Path) -> None:
        write_backbone(weights.build(), folder / BACKBONE, preprocess, {})

    inputs: Mapping[str, Any] = {"weights": weights.hash, "card": card, "size": preprocess.size}
    return store.get("backbone", inputs, build).folder / BACKBONE


def find_checkpoint(path: str, store: Store) -> Path:
    """The weights' file for `checkpoint=`: itself, or that of a run folder, of any folder with one, of a name in the
    store.

    Raises:
        UserError: when there is none, or more than one to choose from.
    """
    return find_weights(path, store.root / "pretrain")


def network_name(weights: Weights, native: int) -> str:
    """The backbone's name and what else tells networks apart, so that a table does not mix them up.

    native: pixels of a side of the images.
    """
    spec, size = weights.spec, weights.preprocess.size
    words = [spec["name"], *(f"{k}={v}" for k, v in sorted(spec["kwargs"].items()))]
    words += [f"depths={spec['depths']}"] if spec.get("depths", 1) != 1 else []
    words += [f"at {size} px"] if size != min(native, LARGEST) else []
    return " ".join(words)
