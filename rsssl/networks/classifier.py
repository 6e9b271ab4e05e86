"""A trained scene classifier as one module: stored pixels in, class probabilities out; and the file it is kept in.

classifier.safetensors    the head's tensors, and the whole network's where it was trained with the labels; its metadata
                          says what the head is, what the pixels mean, and else which file of the store has the backbone
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.augment import symmetries
from rsssl.engine.files import sha256_of, write_atomic
from rsssl.engine.loop import autocast
from rsssl.errors import UserError
from rsssl.evaluation.knn import KNN
from rsssl.evaluation.ridge import RidgeProbe
from rsssl.models.backbone import build_backbone, describe_backbone, read_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess

CLASSIFIER = "classifier.safetensors"
_KEY = "rsssl.classifier"  # metadata key of such a file
VERSION = 1


class LinearHead(nn.Module):
    """Features (B, D) -> probabilities (B, K): a linear layer, then the softmax.

    With `regression` (ridge regression on one-hot labels estimates probabilities as they are) values below zero become zero
    and the rest is divided by its sum.
    """

    def __init__(self, weight: Tensor, bias: Tensor, regression: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.regression = nn.Parameter(weight.float()), nn.Parameter(bias.float()), regression

    def forward(self, features: Tensor) -> Tensor:
        return self.probabilities(F.linear(features.float(), self.weight, self.bias))

    def probabilities(self, scores: Tensor) -> Tensor:
        """What the layer gives (B, K), as probabilities."""
        if not self.regression:
            return scores.softmax(1)
        share = scores.clamp_min(1e-6)
        return share / share.sum(1, keepdim=True)


class NeighbourHead(nn.Module):
    """Features (B, D) -> the classes' shares of the votes of the k nearest labelled images (`KNN`, from its `state`)."""

    def __init__(self, arguments: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.arguments = arguments
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        return KNN.of_state(self.arguments, dict(self.named_buffers())).votes(features)


Head = LinearHead | NeighbourHead


def head_of(classifier: Any) -> Head:
    """A fitted probe as the head of the classifier that is kept."""
    if isinstance(classifier, KNN):
        return NeighbourHead(*classifier.state())
    weight, bias = classifier.layer()
    return LinearHead(weight, bias, isinstance(classifier, RidgeProbe))


class SceneClassifier(nn.Module):
    """x (B, C, H, W) stored pixels of the sensor card's bands, any numeric type -> class probabilities (B, K) float32.

    Attributes: card (`SensorCard`), classes, size (pixels the backbone sees), window (pixels of a tile as it is stored),
    fingerprint (of the file it was read from).
    """

    fingerprint = ""

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        card: SensorCard,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.card, self.size = backbone, head, card, size
        self.preprocess = Preprocess(card, size, mean, std)
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def window(self) -> int:
        return min(self.card.size)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(self.preprocess(x)))

    def standardised(self, x: Tensor, tta: bool = False) -> Tensor:
        """The same for x (B, C, S, S) that has been preprocessed; with `tta` averaged over the eight flips and quarter turns."""
        if tta:
            return torch.stack([self.standardised(view) for view in symmetries(x)]).mean(0)
        with autocast(x.device):
            features = self.backbone(x)
        with torch.autocast(x.device.type, enabled=False):  # as evaluations do it: the head in full precision
            return self.head(features.float())


@dataclass(frozen=True)
class Trained:
    """What an evaluation made: enough to build the classifier, or to write its file.

    backbone: None, where `network` (a backbone and a head trained together) holds the weights.
    """

    head: Head
    card: SensorCard
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: nn.Module | None = None

    def save(self, file: Path, backbone: Path | None, notes: dict[str, Any]) -> None:
        """Writes the classifier, whole or not at all.

        backbone: the file of `save_backbone` that holds the frozen backbone; only its path and hash are written. notes: what else
        to keep about it (accuracy, split), as JSON.
        """
        about: dict[str, Any] = {
            "version": VERSION,
            "card": self.card.to_dict(),
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "notes": notes,
        }
        tensors: dict[str, Tensor] = {}
        if isinstance(self.head, LinearHead):
            about["head"] = {"kind": "regression" if self.head.regression else "linear"}
            tensors |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        else:
            about["head"] = {"kind": "neighbours"} | self.head.arguments
            tensors |= {f"head.{k}": v for k, v in self.head.named_buffers()}
        if self.network is not None:
            tensors |= {f"backbone.{k}": v for k, v in self.network.state_dict().items()}
            about["spec"] = self.network.spec
        else:
            assert backbone is not None
            about["backbone"] = {"file": str(backbone.resolve()), "sha256": sha256_of(backbone)}
        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        write_atomic(file, save(plain, metadata={_KEY: json.dumps(about)}))


def describe_classifier(file: Path) -> dict[str, Any]:
    """What a file of `Trained.save` says of itself.

    Raises:
        UserError: when it is missing, damaged or made by something else.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} cannot be read as a classifier ({error}): evaluate again, rsssl-run task=evaluate"
        ) from error
    if _KEY not in metadata:
        raise UserError(
            f"{file} holds no classifier: type checkpoint=DIR with a run folder of task=evaluate or task=pipeline"
        )
    return json.loads(metadata[_KEY])


def read_classifier(file: Path) -> SceneClassifier:
    """The classifier in a file of `Trained.save`, on the CPU in evaluation mode.

    Raises:
        UserError: when it, or the backbone it names, is missing or not what it was.
    """
    about = describe_classifier(file)
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
    if "spec" in about:
        backbone = build_backbone(**about["spec"])
        backbone.load_state_dict(_below("backbone.", tensors), strict=True)
    else:
        backbone = read_backbone(_unchanged(about["backbone"], file))[0]
    kind, head = about["head"].pop("kind"), _below("head.", tensors)
    made: Head
    if kind == "neighbours":
        made = NeighbourHead(about["head"], head)
    else:
        made = LinearHead(head["weight"], head["bias"], kind == "regression")
    card = SensorCard.from_dict(about["card"])
    return SceneClassifier(backbone, made, card, about["size"], tuple(about["mean"]), tuple(about["std"]))


def _unchanged(record: dict[str, str], file: Path) -> Path:
    """The backbone's file, found where it was or beside the classifier, with the content it had."""
    for place in (Path(record["file"]), file.parent / Path(record["file"]).name):
        if place.is_file():
            if sha256_of(place) != record["sha256"]:
                raise UserError(
                    f"{place} is not the backbone that {file} was trained on (its content has changed): run the command that "
                    "made the classifier again"
                )
            describe_backbone(place)
            return place
    raise UserError(
        f"{file} needs the backbone {record['file']}, which is gone: run the command that made the classifier again. To move a "
        "classifier to another machine, type rsssl-run task=export checkpoint=DIR out=FOLDER"
    )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
