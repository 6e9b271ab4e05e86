"""How networks are kept in files: a record (`about`) that says what the network is, and tensors under three prefixes.

    about        kind, spec (arguments of build_backbone), card, size, mean, std, head (its settings), notes
    backbone.*   the backbone's tensors
    head.*       the head's tensors
    trust.*      what the classifier needs to say what it does not know

A run folder has `classifier.safetensors`, whose metadata hold the record. Where the backbone stayed frozen, its weights
lie in a file of the store, and the record names that file and its SHA-256. A pre-training leaves
`backbone.safetensors`, tensors by timm's names. An exported folder (exported.py) has the same record as rsssl.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.engine.files import sha256_of, write_atomic
from rsssl.engine.store import is_artifact
from rsssl.errors import UserError
from rsssl.evaluation.heads import Head, below, head_from
from rsssl.evaluation.trust import Trust
from rsssl.models.backbone import describe_backbone, read_backbone, rebuilt, save_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.models.weights import AGAIN, hash_of, pack_tensors, read_metadata, read_tensors
from rsssl.networks.network import SceneNetwork
from rsssl.records import digest, parse_json, read_sealed

CLASSIFIER, BACKBONE = "classifier.safetensors", "backbone.safetensors"
TRAINING = "training.json"  # beside a backbone: how it was trained
_KEY = "rsssl.classifier"  # metadata key of a classifier's file
VERSION = 1
MOST = 1 << 26  # numbers of a network's input, as 250 bands of 512 x 512


def write_backbone(backbone: nn.Module, file: Path, preprocess: Preprocess, more: Mapping[str, str]) -> None:
    """Writes a backbone with its sensor card (whose mean and std are those of its training) and image size."""
    card = preprocess.card.to_dict() | {"mean": list(preprocess.mean), "std": list(preprocess.std)}
    save_backbone(backbone, file, {"card": json.dumps(card), "image_size": str(preprocess.size), **more})


def write_classifier(
    file: Path,
    head: Head,
    preprocess: Preprocess,
    notes: dict[str, Any],
    backbone: Path | nn.Module,
    trust: Trust | None = None,
) -> None:
    """Writes a classifier, whole or not at all.

    Args:
        file: the name of the file.
        head: features to probabilities.
        preprocess: how stored pixels become the backbone's input.
        notes: what else to keep about it (accuracy, split), as JSON.
        backbone: the file of the frozen backbone, of which only path and hash are written; or the network that was
            trained with the head, which is written whole.
        trust: what it does not know.
    """
    about: dict[str, Any] = {"version": VERSION} | preprocess.to_dict() | {"notes": notes, "head": head.settings()}
    tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {f"trust.{k}": v for k, v in trust.state_dict().items()} if trust is not None else {}
    if isinstance(backbone, Path):
        about["backbone"] = {"file": str(backbone.resolve()), "sha256": sha256_of(backbone)}
    else:
        about["spec"] = backbone.spec
        tensors |= {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    write_atomic(file, pack_tensors(tensors, {_KEY: json.dumps(about)}))


def about_classifier(file: Path) -> dict[str, Any]:
    """The record in a classifier's file.

    Raises:
        UserError: when the file is missing, damaged or made by something else.
    """
    metadata = read_metadata(file)
    if _KEY not in metadata:
        raise UserError(
            f"{file} holds no classifier: type checkpoint=DIR with a run folder of task=evaluate or task=pipeline"
        )
    return parse_json(metadata[_KEY], file, AGAIN)


def holds_classifier(file: Path) -> bool:
    """Whether this is a classifier's file, and not a backbone's; a damaged one is told when it is read."""
    try:
        return bool(about_classifier(file))
    except UserError:
        return file.name == CLASSIFIER


def read_classifier(file: Path) -> SceneNetwork:
    """The classifier in a file of `write_classifier`, on the CPU.

    Raises:
        UserError: when it, or the backbone it names, is missing or has changed.
    """
    about, tensors = about_classifier(file), read_tensors(file)
    with as_described(file):
        if "spec" in about:
            backbone = rebuilt(about["spec"], below("backbone.", tensors), file)
        else:
            backbone = read_backbone(_unchanged(about["backbone"], file))[0]
        head = head_from(about["head"], below("head.", tensors))
        preprocess, kept = Preprocess.from_dict(about), below("trust.", tensors)
        trust = Trust.from_tensors(kept, len(preprocess.card.classes)) if kept else None
        return tried(
            SceneNetwork(
                backbone, preprocess, head, notes=about["notes"], fingerprint=content(about, tensors), trust=trust
            )
        )


def tried(network: SceneNetwork) -> SceneNetwork:
    """The network, when an image of zeros goes through it: what a file says may fit together and be of no use.

    Raises:
        ValueError: where it does not give a probability for each of its classes, or asks for more than MOST numbers.
    """
    if network.card.n_bands * network.size**2 > MOST:
        raise ValueError(f"{network.card.n_bands} bands of {network.size} pixels a side are no image of a tile")
    x = torch.zeros(1, network.card.n_bands, network.size, network.size)
    with torch.no_grad():
        if network.trust is not None and network.trust.knows_the_pool:
            out, _ = network.judged(x)
        else:
            out = network.standardised(x)
    if network.head is not None and out.shape != (1, len(network.classes)):
        raise ValueError(f"its head gives {tuple(out.shape)} for {len(network.classes)} classes")
    return network


@contextmanager
def as_described(file: Path) -> Iterator[None]:
    """Within it a network is made of what a file says of it, and whatever goes wrong is the file's fault.

    Raises:
        UserError: naming the file.
    """
    try:
        yield
    except UserError as error:
        if str(file) in str(error):
            raise
        raise UserError(f"{file}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{file} does not describe a network of rsssl ({type(error).__name__}: {first}): {AGAIN}"
        ) from error


def content(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A hash of what a classifier does, whenever and wherever it was made: of its tensors, and of its record but for
    the notes and the place of its backbone."""
    known = {k: v for k, v in about.items() if k not in ("notes", "backbone")}
    known["backbone"] = about.get("backbone", {}).get("sha256")
    return digest([known, hash_of(tensors)])


def read_pretrained(file: Path) -> SceneNetwork:
    """The backbone in a file of `write_backbone`, on the CPU.

    Raises:
        UserError: when it is missing, damaged, or says nothing of its sensor.
    """
    backbone, metadata = read_backbone(file)
    preprocess = preprocess_of(file, metadata)
    record: dict[str, Any] = {"dataset": preprocess.card.name, "artifact": file.parent.name}
    if (file.parent / TRAINING).is_file():
        training = read_sealed(file.parent / TRAINING, AGAIN)
        record |= {k: training[k] for k in ("images", "epochs", "seconds", "images_per_second") if k in training}
    return SceneNetwork(backbone, preprocess, notes={"pretrain": record}, fingerprint=sha256_of(file))


def check_bands(file: Path, bands: Sequence[str], card: SensorCard) -> None:
    """Raises UserError when the weights in a file were trained on other bands than a card has."""
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


def preprocess_of(file: Path, metadata: Mapping[str, str]) -> Preprocess:
    """How the images were presented to the backbone in a file, by its metadata.

    Raises:
        UserError: when the metadata say nothing of the sensor.
    """
    if "card" not in metadata:
        raise UserError(
            f"{file} says nothing of its sensor: type path=DIR with a folder that rsssl-run task=pretrain prints"
        )
    with as_described(file):
        card = SensorCard.from_dict(parse_json(metadata["card"], file, AGAIN))
        return Preprocess(card, int(metadata["image_size"]), card.mean, card.std)


def _unchanged(record: dict[str, str], file: Path) -> Path:
    """The backbone's file, at its old place in a store or beside the classifier, with the content it had.

    No other file is opened, whatever the record names.
    """
    named = Path(record["file"])
    for place in (named, file.parent / named.name):
        if (place.parent == file.parent or is_artifact(place.parent)) and place.is_file():
            if sha256_of(place) != record["sha256"]:
                raise UserError(
                    f"{place} is not the backbone that {file} was trained on (its content has changed): run the "
                    f"command "
                    "that made the classifier again"
                )
            describe_backbone(place)
            return place
    raise UserError(
        f"{file} needs the backbone {record['file']}, which is gone: run the command that made the classifier again. "
        f"To "
        "move a classifier to another machine, type rsssl-run task=export checkpoint=DIR out=FOLDER"
    )
