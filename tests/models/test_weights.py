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
from rsssl.models.weights import adapt_bands, load_weights, read_state


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A 3-band ResNet-18 as its publisher has it: with a classifier, statistics moved."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


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
    assert _agrees(build_backbone("resnet18", 3, weights=file, seed=4), source)


@pytest.mark.parametrize("how", ["mean", "tile"])
def test_first_convolution_goes_from_3_to_13_bands(
    how: str, source: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level(logging.INFO):
        model = build_backbone("resnet18", 13, weights=tmp_path / "w.safetensors", adapt=how)
    assert f"first convolution adapted to 13 bands ({how})" in caplog.text
    old = source.conv1.weight.detach()
    for band in range(13):
        expected = old.mean(1) if how == "mean" else old[:, band % 3]
        torch.testing.assert_close(model.conv1.weight[:, band], expected * 3 / 13)
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_adaptation_random_keeps_the_seeds_stem(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = build_backbone("resnet18", 13, weights=tmp_path / "w.safetensors", adapt="random", seed=6)
    assert torch.equal(model.conv1.weight, build_backbone("resnet18", 13, seed=6).conv1.weight)
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


@pytest.mark.parametrize("bands", [2, 4, 13])
def test_tile_is_timms_and_mean_keeps_grey_images(bands: int) -> None:
    weight = torch.randn(8, 3, 7, 7)
    torch.testing.assert_close(adapt_bands(weight, bands, "tile"), adapt_input_conv(bands, weight.clone()))
    grey = torch.randn(1, 1, 32, 32)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = nn.functional.conv2d(grey.expand(-1, bands, -1, -1), adapt_bands(weight, bands, "mean"))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_pretrained_goes_through_timm_and_is_adapted(source: nn.Module, tmp_path: Path) -> None:
    torch.save(
        timm.create_model("resnet18").state_dict() | {"conv1.weight": source.conv1.weight.detach()}, tmp_path / "p.pth"
    )
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "p.pth")}}  # timm's own way to say where weights are
    model = build_backbone("resnet18", 13, pretrained=True, kwargs=overlay)
    torch.testing.assert_close(model.conv1.weight[:, 12], source.conv1.weight.mean(1) * 3 / 13)
    small = build_backbone("resnet18_small", 3, pretrained=True, kwargs=overlay)  # a 7x7 stem does not fit 3x3
    assert torch.equal(small.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


def test_pretrained_alexnet_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import alexnet

    reference = alexnet(weights=None).eval()
    monkeypatch.setattr("rsssl.models.classic.torchvision_state", lambda name: reference.state_dict())
    model = build_backbone("alexnet", 3, pretrained=True).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(x), reference.features(x).mean((2, 3)))

    def offline(name: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("rsssl.models.classic.torchvision_state", offline)
    with pytest.raises(
        UserError, match=r"weights of googlenet could not be fetched .*no route.*backbone.weights=/path"
    ):
        build_backbone("googlenet", 3, pretrained=True)


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
            build_backbone("resnet18", 3, weights=tmp_path / file)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_refused_untouched(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = build_backbone("resnet34", 3, seed=1)
    with pytest.raises(UserError, match=r"badly: \d+ of its \d+ tensors match. Missing: layer1\.2\.\S+.* and \d+ more"):
        load_weights(model, tmp_path / "w.safetensors", 3, "mean")
    fresh = build_backbone("resnet34", 3, seed=1).state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in model.state_dict().items())


def test_almost_all_is_enough_and_the_rest_is_named(source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    del state["layer4.1.conv2.weight"]
    save_file(state, tmp_path / "w.safetensors")
    match = load_weights(build_backbone("resnet18", 3), tmp_path / "w.safetensors", 3, "mean")
    assert match.missing == ("layer4.1.conv2.weight",) and 0.98 < match.share < 1
    assert set(match.unused) == {"fc.weight", "fc.bias"}


def test_files_that_are_no_weights(source: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No weights file at .*nowhere.*backbone.weights="):
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
        build_backbone("resnet18", 3, weights=tmp_path / "nan.safetensors")


def test_a_file_as_torchgeo_publishes_them_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """13 bands of Sentinel-2, a prefix, a classifier, and a tensor that is not there: each is named."""
    published = timm.create_model("resnet50", in_chans=13, num_classes=10)
    state = {"module." + k: v for k, v in published.state_dict().items() if k != "layer4.2.bn3.bias"}
    torch.save({"epoch": 99, "state_dict": state | {"queue": torch.zeros(4, 4)}}, tmp_path / "b13.pth")
    model = build_backbone("resnet50", 13, seed=3)
    with caplog.at_level(logging.INFO):
        match = load_weights(model, tmp_path / "b13.pth", 13, "mean")
    assert match.prefix == "module." and match.missing == ("layer4.2.bn3.bias",) and not match.adapted
    assert set(match.unused) == {"module.fc.weight", "module.fc.bias", "queue"}
    assert all(torch.equal(model.state_dict()[k], published.state_dict()[k]) for k in match.matched)
    total = len(match.matched) + 1
    messages = [r.getMessage() for r in caplog.records]
    assert any(f"{total - 1} of {total} tensors loaded, 1 missing" in m for m in messages)
    assert any("3 more left unused: module.fc.weight, module.fc.bias, queue" in m for m in messages)
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "layer4.2.bn3.bias" in warning.getMessage()
