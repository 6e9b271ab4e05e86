"""Weights files: what fits is loaded, what does not is named, and nothing in them is ever run."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import nn

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone
from rsssl.models.weights import Match, adapt_bands, fit_state, match_bands, read_state


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A 3-band ResNet-18 as its publisher has it: with a classifier, statistics moved."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


def load(model: nn.Module, file: Path, order: list[int | None] | None = None) -> Match:
    return fit_state(model, read_state(file), order, f"The weights in {file}")


def loaded(name: str, bands: int, file: Path, order: list[int | None] | None = None, seed: int = 0) -> nn.Module:
    model = build_backbone(name, bands, seed=seed)
    load(model, file, order)
    return model


def _agrees(model: nn.Module, source: nn.Module) -> bool:
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        return torch.allclose(
            model.eval()(x), source.forward_head(source.forward_features(x), pre_logits=True), atol=1e-5
        )


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested", "prefixed", "two networks"])
def test_round_trips(kind: str, source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    file = tmp_path / "w.pth"
    if kind == "safetensors":
        file = tmp_path / "w.safetensors"
        save_file(state, file)
    elif kind == "pth":
        torch.save(state, file)
    elif kind == "nested":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, file)
    elif kind == "prefixed":
        torch.save({"model": {"module.backbone." + k: v for k, v in state.items()}}, file)
    else:
        noise = {"projector." + k: torch.randn(3, 3) for k in list(state)[:20]}
        torch.save(noise | {"encoder_q." + k: v for k, v in state.items()}, file)
    assert not _agrees(build_backbone("resnet18", 3, seed=4), source)
    assert _agrees(loaded("resnet18", 3, file, seed=4), source)


@pytest.mark.parametrize("order", [None, [2, 1, 0], [None, 1, 0, 2], [0, None, None, 1, 2, *[None] * 8]])
def test_the_first_convolution_follows_the_order_of_the_bands(
    order: list[int | None] | None, source: nn.Module, tmp_path: Path
) -> None:
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    bands = len(order or [0] * 13)
    model = loaded("resnet18", bands, tmp_path / "w.safetensors", order)
    old = source.conv1.weight.detach()
    for band, k in enumerate(order or [None] * 13):
        expected = old.mean(1) if k is None else old[:, k]
        torch.testing.assert_close(model.conv1.weight[:, band], expected * 3 / bands)
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_bands_put_in_another_order_give_the_same_picture() -> None:
    weight, x = torch.randn(8, 3, 7, 7), torch.randn(2, 3, 32, 32)
    before = nn.functional.conv2d(x, weight)
    after = nn.functional.conv2d(x[:, [2, 0, 1]], match_bands(weight, [2, 0, 1]))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bands", [2, 4, 13])
def test_tile_is_timms_and_mean_keeps_grey_images(bands: int) -> None:
    weight = torch.randn(8, 3, 7, 7)
    torch.testing.assert_close(adapt_bands(weight, bands, "tile"), adapt_input_conv(bands, weight.clone()))
    grey = torch.randn(1, 1, 32, 32)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for wide in (adapt_bands(weight, bands, "mean"), match_bands(weight, [None] * bands)):
        after = nn.functional.conv2d(grey.expand(-1, bands, -1, -1), wide)
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_googlenet_is_torchvisions() -> None:
    from torchvision.models import googlenet

    reference = googlenet(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    reference.fc = nn.Identity()
    model = build_backbone("googlenet", 3)
    reference.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(x), reference.eval()(x))


class _Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["RSSSL_BOMB"],)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSSSL_BOMB", str(tmp_path / "ran"))
    torch.save({"conv1.weight": torch.zeros(1), "extra": _Bomb()}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    for file in ("zip.pth", "raw.pth"):
        with pytest.raises(
            UserError, match=rf"{file} is damaged or holds Python objects .*safetensors.torch.save_file"
        ):
            loaded("resnet18", 3, tmp_path / file)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_refused_untouched(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = build_backbone("resnet34", 3, seed=1)
    with pytest.raises(UserError, match=r"badly: \d+ of its \d+ tensors match. Missing: layer1\.2\.\S+.* and \d+ more"):
        load(model, tmp_path / "w.safetensors")
    fresh = build_backbone("resnet34", 3, seed=1).state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in model.state_dict().items())


def test_almost_all_is_enough_and_the_rest_is_named(source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    del state["layer4.1.conv2.weight"]
    save_file(state, tmp_path / "w.safetensors")
    match = load(build_backbone("resnet18", 3), tmp_path / "w.safetensors")
    assert match.missing == ("layer4.1.conv2.weight",) and 0.98 < match.share < 1
    assert set(match.unused) == {"fc.weight", "fc.bias"}


def test_files_that_are_no_weights(source: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No weights file at .*nowhere.*start.file="):
        read_state(tmp_path / "nowhere.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    whole = tmp_path / "whole.pth"
    torch.save(source.state_dict(), whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:1000])
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("empty.pth", "text.pth", "text.safetensors", "cut.pth", "list.pth"):
        with pytest.raises(UserError, match=name):
            read_state(tmp_path / name)
    broken = dict(source.state_dict())
    broken["bn1.bias"] = broken["bn1.bias"] * float("nan")
    save_file(broken, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"NaN or infinity in bn1\.bias"):
        loaded("resnet18", 3, tmp_path / "nan.safetensors")


def test_a_file_as_torchgeo_publishes_them_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """13 bands of Sentinel-2, a prefix, a classifier, and a tensor that is not there: each is named."""
    published = timm.create_model("resnet50", in_chans=13, num_classes=10)
    state = {"module." + k: v for k, v in published.state_dict().items() if k != "layer4.2.bn3.bias"}
    torch.save({"epoch": 99, "state_dict": state | {"queue": torch.zeros(4, 4)}}, tmp_path / "b13.pth")
    model = build_backbone("resnet50", 13, seed=3)
    with caplog.at_level(logging.INFO):
        match = load(model, tmp_path / "b13.pth")
    assert match.prefix == "module." and match.missing == ("layer4.2.bn3.bias",) and not match.adapted
    assert set(match.unused) == {"module.fc.weight", "module.fc.bias", "queue"}
    assert all(torch.equal(model.state_dict()[k], published.state_dict()[k]) for k in match.matched)
    total = len(match.matched) + 1
    messages = [r.getMessage() for r in caplog.records]
    assert any(f"{total - 1} of {total} tensors loaded, 1 missing" in m for m in messages)
    assert any("3 more left unused: module.fc.weight, module.fc.bias, queue" in m for m in messages)
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "layer4.2.bn3.bias" in warning.getMessage()
