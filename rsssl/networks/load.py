"""Networks from any place that rsssl writes them to, as modules that carry their preprocessing: public as `rsssl.load_*`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.engine.files import sha256_of
from rsssl.engine.store import recorded
from rsssl.errors import UserError
from rsssl.models.backbone import read_backbone
from rsssl.models.card import SensorCard
from rsssl.networks.classifier import CLASSIFIER, SceneClassifier, describe_classifier, read_classifier
from rsssl.networks.exported import ABOUT, describe_exported, is_exported, read_exported
from rsssl.networks.sensor import SceneBackbone, for_sensor

Place = str | os.PathLike[str]
Card = SensorCard | Mapping[str, Any] | str | os.PathLike[str]


def load_backbone(path: Place, card: Card | None = None, adapt: str | None = None) -> SceneBackbone:
    """A pre-trained backbone: stored pixels (B, C, H, W) -> features (B, D), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run directory, the folder that task=pretrain prints, or a weights file of rsssl; of a
            classifier its backbone is taken.
        card: the sensor card of your own images: a `SensorCard`, its dict, or a JSON file with one (card.json, rsssl.json).
            Bands (by name), dtype and valid range have to be those of the weights.
        adapt: what to do where they are not: "match", "mean", "tile" or "random" (see `rsssl.networks.sensor.for_sensor`).

    Returns:
        A module with the attributes card, size, preprocess and backbone (the bare network).

    Raises:
        UserError: when there are no such weights, a file is not what it was, or the sensor differs.
    """
    network = open_network(path)[0]
    if isinstance(network, SceneClassifier):
        pre = network.preprocess
        network = SceneBackbone(network.backbone, network.card, network.size, pre.mean, pre.std)
    return network if card is None else for_sensor(network, read_card(card), adapt, str(path))


def load_classifier(path: Place, card: Card | None = None, adapt: str | None = None) -> SceneClassifier:
    """A trained classifier: stored pixels (B, C, H, W) -> class probabilities (B, K), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run directory of task=pipeline or task=evaluate, or its classifier.safetensors.
        card, adapt: as for `load_backbone`.

    Returns:
        A module with the attributes classes, card, size, preprocess, backbone and head.

    Raises:
        UserError: when there is no classifier, a file is not what it was, or the sensor differs.
    """
    network = open_classifier(str(path))
    return network if card is None else for_sensor(network, read_card(card), adapt, str(path))


def open_classifier(path: str | None) -> SceneClassifier:
    """The classifier for `checkpoint=`: of an exported folder, a run directory or a file, ready to predict.

    Raises:
        UserError: when there is none, or it is not what it was.
    """
    if path and is_exported(folder := Path(path).expanduser()):
        found = read_exported(folder)
        if isinstance(found, SceneBackbone):
            raise UserError(
                f"{path} is a backbone without a classifier: type rsssl-run task=evaluate checkpoint={path} dataset=... ts=5, "
                "and then checkpoint=DIR with the run folder it prints; for its features, rsssl.load_backbone"
            )
        return found
    file = find_classifier(path)
    classifier = read_classifier(file)
    classifier.fingerprint = sha256_of(file)
    return classifier


def open_network(path: Place, *more: Path) -> tuple[SceneClassifier | SceneBackbone, dict[str, Any]]:
    """The classifier that a place has, else its backbone; and what is noted of it. more: as for `find_weights`.

    Raises:
        UserError: when there is neither.
    """
    given = Path(path).expanduser()
    if is_exported(given):
        return read_exported(given), describe_exported(given)["notes"]
    if (file := given / CLASSIFIER if given.is_dir() else given).is_file() and holds_classifier(file):
        return open_classifier(str(path)), describe_classifier(file)["notes"]
    file = find_weights(str(path), *more)
    backbone, metadata = read_backbone(file)
    if "card" not in metadata:
        raise UserError(
            f"{file} says nothing of its sensor: type path=DIR with a folder that rsssl-run task=pretrain prints"
        )
    card = SensorCard.from_dict(json.loads(metadata["card"]))
    record: dict[str, Any] = {"dataset": card.name, "artifact": file.parent.name}
    if (file.parent / "training.json").is_file():
        training = json.loads((file.parent / "training.json").read_text())
        record |= {k: training[k] for k in ("images", "epochs", "seconds", "images_per_second") if k in training}
    return SceneBackbone(backbone, card, int(metadata["image_size"]), card.mean, card.std), {"pretrain": record}


def holds_classifier(file: Path) -> bool:
    """Whether this is a classifier's file, and not a backbone's or a damaged one."""
    try:
        return bool(describe_classifier(file))
    except UserError:
        return file.name == CLASSIFIER  # damaged: said when it is read


def find_weights(path: str, *more: Path) -> Path:
    """The weights' file at `path`: itself, or that of a run directory or of any folder with one, else of the folders `more`.

    Raises:
        UserError: when there is none, or more than one to choose from.
    """
    given = Path(path).expanduser()
    if given.is_file() and given.suffix == ".safetensors":
        return given
    if is_exported(given):
        if describe_exported(given)["layer"]:
            raise UserError(
                f"{path} is an exported classifier: type checkpoint=DIR with the run directory that it was made from"
            )
        return given / "model.safetensors"
    for folder in (given, recorded(given), *more):
        files = (
            sorted(f for f in folder.glob("*.safetensors") if f.name != CLASSIFIER)
            if folder and folder.is_dir()
            else []
        )
        if len(files) == 1:
            return files[0]
        if files:
            raise UserError(
                f"checkpoint={path} holds {len(files)} weights files: type one of them, checkpoint={files[0]}"
            )
    raise UserError(
        f"checkpoint={path} holds no pre-trained weights: type checkpoint=DIR with a run directory, or with the folder that "
        "rsssl-run task=pretrain prints"
    )


def find_classifier(path: str | None) -> Path:
    """The classifier's file: itself, or that of a run directory.

    Raises:
        UserError: when there is none.
    """
    if not path:
        raise UserError(
            "a classifier is needed: type checkpoint=DIR with the run folder of a task=pipeline or task=evaluate"
        )
    given = Path(path).expanduser()
    if given.is_file() and given.suffix == ".safetensors":
        return given
    if (given / CLASSIFIER).is_file():
        return given / CLASSIFIER
    if not given.exists():
        raise UserError(f"checkpoint={path} does not exist: type checkpoint=DIR with the run folder of a task=pipeline")
    raise UserError(
        f"checkpoint={path} holds no classifier ({CLASSIFIER}): type rsssl-run task=evaluate checkpoint={path} dataset=... ts=5, "
        "and then checkpoint=DIR with the run folder it prints"
    )


def read_card(card: Card) -> SensorCard:
    """A sensor card from itself, its dict, or a JSON file that holds one.

    Raises:
        UserError: when it is none.
    """
    if isinstance(card, SensorCard):
        return card
    origin = "card=" if isinstance(card, Mapping) else f"card={os.fspath(card)}"
    try:
        content = card if isinstance(card, Mapping) else json.loads(Path(card).expanduser().read_text())
        return SensorCard.from_dict(content.get("card", content))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{origin} is no sensor card ({error}): type card= with the card.json of a pack, or the {ABOUT} of an export"
        ) from error
