"""Files of weights that describe more than an architecture: nothing they name is opened, fetched, built or run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save, save_file

from rsssl.errors import UserError
from rsssl.models.arguments import checked_arguments
from rsssl.models.backbone import build_backbone, read_backbone, save_backbone
from rsssl.models.weights import pack_tensors
from rsssl.records import Damaged

SPEC = {"name": "resnet10t", "in_chans": 3, "kwargs": {"channels": [8, 16, 32, 64]}, "depths": 1}
FORBIDDEN: list[str] = []  # where not empty, opening a file of that name or a connection fails the test
CAUGHT: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if FORBIDDEN and (
        event in ("socket.connect", "urllib.Request", "subprocess.Popen", "os.system", "pickle.find_class")
        or (event == "open" and any(name in str(arguments[0]) for name in FORBIDDEN))
    ):
        CAUGHT.append(f"{event} {arguments[:1]}")


sys.addaudithook(watch)  # there is no way to take it out again, so it looks only while FORBIDDEN holds something


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Path]:
    """A file that nothing may open; the test fails where something did, or connected anywhere, or started anything."""
    bait = tmp_path / "bait.pth"
    bait.write_bytes(b"cos\nsystem\n(S'true'\ntR.")  # a pickle that runs a program
    CAUGHT.clear()
    FORBIDDEN.append(bait.name)
    yield bait
    FORBIDDEN.clear()
    assert CAUGHT == []


def file_of(folder: Path, spec: Any) -> Path:
    """A file of weights with that description, as an attacker writes it."""
    state = build_backbone(**SPEC).state_dict()  # type: ignore[arg-type]
    file = folder / "backbone.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, file, metadata={"rsssl.backbone": json.dumps(spec)})
    return file


def sealed_file_of(folder: Path, spec: Any) -> Path:
    """The same with seals that are right: an attacker writes these too."""
    model = build_backbone(**SPEC)  # type: ignore[arg-type]
    model.spec = spec
    return save_backbone(model, folder / "backbone.safetensors")


HOSTILE = {
    "a pickle": {"kwargs": {"checkpoint_path": "{bait}"}},
    "weights of another file": {"kwargs": {"pretrained": True, "pretrained_cfg_overlay": {"file": "{bait}"}}},
    "an address": {"kwargs": {"pretrained": True, "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/w.pth"}}},
    "a cache": {"kwargs": {"cache_dir": "{bait}"}},
    "a hub": {"name": "hf-hub:attacker/model"},
    "a folder": {"name": "local-dir:{bait}"},
    "a path for a word": {"kwargs": {"act_layer": "../{bait}"}},
    "a further key": {"pretrained": True},
    "a width without end": {"kwargs": {"channels": [10**9, 16, 32, 64]}},
    "more bands than there are": {"in_chans": 10**9},
    "another network": {"name": "resnet18", "kwargs": {}},
    "words for numbers": {"kwargs": {"channels": "abc"}},
    "no description": None,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_of_weights_describes_nothing_but_an_architecture(case: str, tmp_path: Path, watched: Path) -> None:
    change = HOSTILE[case]
    text = json.dumps(None if change is None else SPEC | change).replace("{bait}", str(watched))
    with pytest.raises(UserError, match=r"backbone\.safetensors"):
        read_backbone(sealed_file_of(tmp_path, json.loads(text) or {}))


def test_a_network_that_is_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    file = sealed_file_of(tmp_path, SPEC | {"name": "vit_giant_patch14_dinov2", "kwargs": {}})  # 4.5 GB
    with pytest.raises(UserError, match="does not fit the backbone it names"):
        read_backbone(file)


def test_metadata_without_a_seal_and_changed_tensors_are_damage(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="metadata are not what was written"):
        read_backbone(file_of(tmp_path, SPEC))
    file = sealed_file_of(tmp_path, SPEC)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="tensors are not what was written"):
        read_backbone(file)


@pytest.mark.parametrize(
    ("name", "kwargs", "depths"),
    [
        ("resnet18", {"drop_path_rate": 0.1}, 2),
        ("resnet18_small", {}, 1),
        ("googlenet", {}, 1),
        ("alexnet", {}, 1),
        ("vit_tiny_patch16_224", {"img_size": 64, "patch_size": 8, "depth": 2, "global_pool": "avg"}, 1),
        ("convnext_atto", {"drop_path_rate": 0.1}, 1),
        ("swin_tiny_patch4_window7_224", {}, 1),
        ("tf_efficientnet_lite0", {}, 1),
        ("mobilenetv3_small_075", {}, 1),
    ],
)
def test_what_may_be_typed_comes_back_from_its_file(
    name: str, kwargs: dict[str, Any], depths: int, tmp_path: Path
) -> None:
    model = build_backbone(name, 4, kwargs, depths, seed=3)
    back = read_backbone(save_backbone(model, tmp_path / "b.safetensors"))[0]
    assert back.spec == model.spec
    for key, value in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("arguments", [{"url": "x"}, {"depth": 1 << 20}, {"act_layer": "a/b"}, {"act_layer": {}}, []])
def test_arguments_are_named_and_plain(arguments: Any) -> None:
    with pytest.raises(UserError, match=r"backbone\.kwargs"):
        checked_arguments(arguments, "backbone.kwargs")


def test_the_same_weights_give_the_same_bytes_and_safetensors_reads_them() -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.zeros(2, 2)}
    metadata = {str(i): "ü" * i for i in range(8)}
    written = {pack_tensors(tensors, metadata) for _ in range(20)}
    assert len(written) == 1
    assert {k: v.tolist() for k, v in load(written.pop()).items()} == {k: v.tolist() for k, v in tensors.items()}
    assert len({save(tensors, metadata) for _ in range(20)}) > 1, "then the order need not be made"
