"""Folders and files that somebody was sent: an attacker wrote them, seals and checksums included."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.heads import LinearHead
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.models.weights import pack_tensors
from rsssl.networks.exported import ABOUT, SUMS, write_exported
from rsssl.networks.files import CLASSIFIER, MOST, about_classifier, write_backbone, write_classifier
from rsssl.networks.load import load
from rsssl.networks.network import SceneNetwork

BANDS = ("red", "green", "blue")
CARD = SensorCard("t", BANDS, "uint8", (0, 0, 0), (255,) * 3, None, (0.5,) * 3, (0.2,) * 3, ("a", "b"), (32, 32))
PLAIN = {"channels": [8, 16, 32, 64]}
HOSTILE: dict[str, dict[str, Any]] = {
    "a pickle": {"spec": {"kwargs": {"checkpoint_path": "{bait}"}}},
    "an address": {"spec": {"kwargs": {"pretrained": True, "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/"}}}},
    "a hub": {"spec": {"name": "hf-hub:attacker/model"}},
    "an image without end": {"size": 10**9},
    "a size in words": {"size": "large"},
    "fewer classes": {"card": {"classes": ["a"]}},
    "more bands": {"card": {"bands": [*BANDS, "nir"]}},
    "a range of nothing": {"card": {"low": [0, 0, 0], "high": [0, 0, 0]}},
    "a nan": {"card": {"mean": [float("nan")] * 3}},
    "another kind of head": {"head": {"kind": "../../{bait}"}},
    "heads without end": {"head": {"kind": "sum", "parts": [{"kind": "sum", "parts": [{"kind": "linear"}] * 9}] * 9}},
    "no head": {"head": None},
    "no card": {"card": None},
    "a newer version": {"version": 99},
    "a version in words": {"version": "?"},
}


opened: list[str] = []
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and event in ("open", "socket.connect", "subprocess.Popen", "os.system", "urllib.Request"):
        opened.append(f"{event} {arguments[0]}")


sys.addaudithook(watch)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What was opened, fetched and started meanwhile."""
    global watching
    opened.clear()
    watching = True
    yield opened
    watching = False


def network() -> SceneNetwork:
    backbone = build_backbone("resnet10t", 3, PLAIN)
    return SceneNetwork(
        backbone, Preprocess(CARD, 32, CARD.mean, CARD.std), LinearHead(torch.zeros(2, 64), torch.zeros(2))
    )


def changed(about: dict[str, Any], case: str, bait: Path) -> dict[str, Any]:
    """What a file says, as the attacker would have it."""
    for key, value in json.loads(json.dumps(HOSTILE[case]).replace("{bait}", str(bait))).items():
        about[key] = about[key] | value if isinstance(value, dict) and key in about else value
    return about


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_export_opens_fetches_and_runs_nothing(case: str, tmp_path: Path, watched: list[str]) -> None:
    folder = tmp_path / "export"
    write_exported(network(), folder)
    about = changed(json.loads((folder / ABOUT).read_text()), case, tmp_path / "bait.pth")
    (folder / ABOUT).write_text(json.dumps(about))
    files = [f for f in folder.iterdir() if f.name not in (SUMS, "README.md")]
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (folder / SUMS).write_text("".join(lines))
    watched.clear()
    with pytest.raises(UserError, match="export"):
        load(folder)
    assert strangers(watched, folder) == []


@pytest.mark.parametrize("case", [c for c in HOSTILE if "version" not in c])
def test_a_hostile_classifier_opens_fetches_and_runs_nothing(case: str, tmp_path: Path, watched: list[str]) -> None:
    net, file = network(), tmp_path / "sent" / CLASSIFIER
    assert net.head is not None
    write_classifier(file, net.head, net.preprocess, {}, net.backbone)
    about, tensors = about_classifier(file), load_file(file)
    file.write_bytes(pack_tensors(tensors, {"rsssl.classifier": json.dumps(changed(about, case, tmp_path / "bait"))}))
    watched.clear()
    with pytest.raises(UserError, match=r"classifier\.safetensors"):
        load(file.parent)
    assert strangers(watched, file.parent) == []


@pytest.mark.parametrize("place", ["/etc/passwd", "../../bait.safetensors", "{other}", "//server/share/w.safetensors"])
def test_a_classifier_names_no_backbone_but_one_of_a_store_or_beside_it(
    place: str, tmp_path: Path, watched: list[str]
) -> None:
    net, file = network(), tmp_path / "sent" / CLASSIFIER
    other = tmp_path / "other" / "backbone.safetensors"
    write_backbone(net.backbone, other, net.preprocess, {})
    assert net.head is not None
    write_classifier(file, net.head, net.preprocess, {}, other)
    about, tensors = about_classifier(file), load_file(file)
    about["backbone"]["file"] = place.replace("{other}", str(other))
    file.write_bytes(pack_tensors(tensors, {"rsssl.classifier": json.dumps(about)}))
    watched.clear()
    with pytest.raises(UserError, match="which is gone"):
        load(file.parent)
    assert strangers(watched, file.parent) == []
    shutil.copy(other, file.parent / Path(about["backbone"]["file"]).name)  # sent along with it
    assert load(file.parent).kind == "classifier"


def test_a_classifier_finds_its_backbone_in_the_store(tmp_path: Path) -> None:
    net, file = network(), tmp_path / "run" / CLASSIFIER
    folder = Store(tmp_path / "store").folder("pretrain", {"ssl": "simclr"})
    write_backbone(net.backbone, folder / "backbone.safetensors", net.preprocess, {})
    assert net.head is not None
    write_classifier(file, net.head, net.preprocess, {}, folder / "backbone.safetensors")
    assert load(file.parent).kind == "classifier"


def strangers(events: list[str], folder: Path) -> list[str]:
    """What was opened beside the folder's own files, Python's and the packages' own code."""
    own = (str(folder), sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc", "/sys")
    files = [e.removeprefix("open ") for e in events if e.startswith("open ")]
    return [e for e in events if not e.startswith("open ")] + [
        f for f in files if not f.startswith(own) and not f.isdigit()
    ]


def test_an_input_larger_than_any_tile_is_refused_before_it_is_made(tmp_path: Path) -> None:
    about: dict[str, Any] = {"size": 4096, "card": {"bands": [f"b{i}" for i in range(64)]}}
    assert MOST < 64 * 4096**2  # 4.3 GB of zeros
    net = network()
    for field in ("low", "high", "mean", "std"):
        about["card"][field] = [0.5 + (field == "high")] * 64
    backbone = build_backbone("resnet10t", 64, PLAIN)
    pre = Preprocess.from_dict(
        {"card": CARD.to_dict() | about["card"], "mean": [0.5] * 64, "std": [0.2] * 64, "size": 4096}
    )
    assert net.head is not None
    write_classifier(tmp_path / CLASSIFIER, net.head, pre, {}, backbone)
    with pytest.raises(UserError, match="64 bands of 4096 pixels a side"):
        load(tmp_path)
