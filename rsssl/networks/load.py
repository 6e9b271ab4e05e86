"""Networks from any place that rsssl writes them to: `load`, and what `checkpoint=` may name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.engine.store import recorded
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.networks.exported import ABOUT, about_exported, is_exported, read_exported
from rsssl.networks.files import CLASSIFIER, holds_classifier, read_classifier, read_pretrained
from rsssl.networks.network import SceneNetwork
from rsssl.networks.sensor import for_sensor

Place = str | os.PathLike[str]
Card = SensorCard | Mapping[str, Any] | str | os.PathLike[str]


def load(path: Place, store: Path | None = None) -> SceneNetwork:
    """The network at a place: its classifier, else its backbone; on the CPU.

    Args:
        path: a run folder, an exported folder, a folder of the store or its name there, or a file of weights.
        store: the store's folder of pre-trainings, where `path` may be a name.

    Raises:
        UserError: when there is none, several to choose from, or a file has changed.
    """
    folder = Path(path).expanduser()
    if is_exported(folder):
        return read_exported(folder)
    file = folder / CLASSIFIER if folder.is_dir() else folder
    if file.is_file() and holds_classifier(file):
        return read_classifier(file)
    return read_pretrained(find_weights(path, store))


def load_backbone(path: Place, card: Card | None = None, adapt: str | None = None) -> SceneNetwork:
    """A pre-trained backbone: stored pixels (B, C, H, W) -> features (B, D), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run folder, the folder that task=pretrain prints, or a file of weights; of a
            classifier its backbone is taken.
        card: the sensor card of your own images: a `SensorCard`, its dict, or a JSON file with one (card.json,
            rsssl.json). Bands (by name), dtype and valid range have to be those of the weights.
        adapt: what to do where they are not: "match", "mean", "tile" or "random" (see `rsssl.networks.sensor`).

    Returns:
        A module with the attributes card, size, preprocess and backbone (the bare network).

    Raises:
        UserError: when there are no such weights, a file has changed, or the sensor differs.
    """
    network = load(path)
    network.head = None
    return network if card is None else for_sensor(network, read_card(card), adapt, str(path))


def load_classifier(path: Place, card: Card | None = None, adapt: str | None = None) -> SceneNetwork:
    """A trained classifier: stored pixels (B, C, H, W) -> class probabilities (B, K), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run folder of task=pipeline or task=evaluate, or its classifier.safetensors.
        card: as for `load_backbone`.
        adapt: as for `load_backbone`.

    Returns:
        A module with the attributes classes, card, size, preprocess, backbone and head.

    Raises:
        UserError: when there is no classifier, a file has changed, or the sensor differs.
    """
    network = find_classifier(path)
    return network if card is None else for_sensor(network, read_card(card), adapt, str(path))


def find_classifier(path: Place) -> SceneNetwork:
    """The classifier that `checkpoint=` names.

    Raises:
        UserError: when there is none, or a file has changed.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UserError(f"checkpoint={path} does not exist: type checkpoint=DIR with the run folder of a task=pipeline")
    to_type = (
        f"type rsssl-run task=evaluate checkpoint={path} dataset=... ts=5, and then checkpoint=DIR with the run "
        f"folder it "
        "prints"
    )
    if is_exported(folder):
        network = read_exported(folder)
        if network.head is None:
            raise UserError(
                f"{path} is a backbone without a classifier: {to_type}; for its features, rsssl.load_backbone"
            )
        return network
    file = folder / CLASSIFIER if folder.is_dir() else folder
    if not file.is_file():
        refuse_sweep(folder, path)
        raise UserError(f"checkpoint={path} holds no classifier ({CLASSIFIER}): {to_type}")
    return read_classifier(file)


def find_weights(path: Place, store: Path | None = None, key: str = "checkpoint") -> Path:
    """The file of a backbone's weights for `checkpoint=`, or another key. Arguments as for `load`.

    Raises:
        UserError: when there is none, or more than one to choose from.
    """
    given = Path(path).expanduser()
    if given.is_file() and given.suffix == ".safetensors":
        return given
    if is_exported(given):
        if about_exported(given)["layer"]:
            raise UserError(
                f"{path} is an exported classifier: type {key}=DIR with the run folder that it was made from"
            )
        return given / "model.safetensors"
    for folder in (given, recorded(given), store / path if store else None):
        files = []
        if folder and folder.is_dir():
            files = sorted(f for f in folder.glob("*.safetensors") if f.name != CLASSIFIER)
        if len(files) == 1:
            return files[0]
        if files:
            raise UserError(f"{key}={path} holds {len(files)} weights files: type one of them, {key}={files[0]}")
    refuse_sweep(given, path, key)
    raise UserError(
        f"{key}={path} holds no pre-trained weights: type {key}=DIR with a run folder, or with the folder that "
        "rsssl-run task=pretrain prints"
    )


def refuse_sweep(folder: Path, path: Place, key: str = "checkpoint") -> None:
    """Raises UserError for a folder of several runs, naming them."""
    runs = sorted(f.parent for f in folder.glob("*/results.json")) if folder.is_dir() else []
    if runs:
        names = ", ".join(str(run) for run in runs[:5]) + (", ..." if len(runs) > 5 else "")
        raise UserError(
            f"{key}={path} is the folder of a sweep with {len(runs)} runs ({names}): type one of them, {key}={runs[0]}"
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
            f"{origin} is no sensor card ({error}): type card= with the card.json of a pack, or the {ABOUT} of an "
            f"export"
        ) from error
