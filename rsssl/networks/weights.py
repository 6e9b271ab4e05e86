"""Which frozen weights an evaluation looks at: just pre-trained, read from a checkpoint, ImageNet's, or random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from rsssl.data.prepared import Data
from rsssl.data.sizes import LARGEST
from rsssl.engine.run import Run
from rsssl.engine.store import Store, digest
from rsssl.errors import UserError
from rsssl.evaluation.features import Weights
from rsssl.networks.checkpoints import find_checkpoint, from_file
from rsssl.networks.files import BACKBONE, write_backbone
from rsssl.networks.plan import canonical, presented
from rsssl.networks.pretraining import pretrain
from rsssl.networks.recipe import NETWORK, Recipe
from rsssl.networks.starts import Start
from rsssl.networks.training import started

RECORDED = (
    *("artifact", "folder", "dataset", "images", "epochs", "steps", "images_per_second", "seconds", "reused"),
    *("device", "threads", "processes"),
)


def pretrained_or_train(recipe: Recipe, checkpoint: str | None, data: Data, run: Run) -> Weights:
    """The weights that `checkpoint=`, else `ssl=`, asks for; pre-trains when the store has none yet."""
    if checkpoint:
        return from_file(find_checkpoint(checkpoint, run.store), data)
    if recipe.ssl.get("_target_") is None:
        return untrained(recipe, instantiate(recipe.start, _convert_="all"), data, run)
    record = pretrain(recipe, data.dataset, run)
    return from_file(Path(record["weights"]), data, {k: record[k] for k in RECORDED if k in record})


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


def network_name(weights: Weights, native: int) -> str:
    """The backbone's name and what else tells networks apart, so that a table does not mix them up.

    native: pixels of a side of the images.
    """
    spec, size = weights.spec, weights.preprocess.size
    words = [spec["name"], *(f"{k}={v}" for k, v in sorted(spec["kwargs"].items()))]
    words += [f"depths={spec['depths']}"] if spec.get("depths", 1) != 1 else []
    words += [f"at {size} px"] if size != min(native, LARGEST) else []
    return " ".join(words)
