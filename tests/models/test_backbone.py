"""Backbones: shapes at every size and number of bands, seeds, errors, and files that timm opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone, read_backbone, save_backbone
from rsssl.models.maps import patch_side

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
FEATURES = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet34_small": 512,
    "vgg16": 4096,
    "googlenet": 1024,
    "alexnet": 256,
    "alexnet_small": 256,
    "vit_tiny": 192,
    "vit_tiny_p8": 192,
    "vit_small": 384,
    "efficientnet_lite0": 1280,
    "dinov2_small": 384,
    "dinov3_small": 384,
}
LARGE = ("clip_base", "dinov3_large")  # not built here


def _same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_every_yaml_is_tested() -> None:
    assert {p.stem for p in CONF.glob("*.yaml")} == {*FEATURES, *LARGE}
    for name in LARGE:
        assert timm.is_model(OmegaConf.load(CONF / f"{name}.yaml").name)


@pytest.mark.parametrize("bands", [3, 13])
@pytest.mark.parametrize("name", sorted(FEATURES))
@torch.no_grad()
def test_forward_at_every_size(name: str, bands: int) -> None:
    model = instantiate(OmegaConf.load(CONF / f"{name}.yaml"), in_chans=bands, seed=0).eval()
    assert model.num_features == FEATURES[name]
    for size in (32, 64, 224) if bands == 3 else (32,):
        size -= size % patch_side(model)
        out = model(torch.ones(1, bands, size, size))
        assert out.shape == (1, FEATURES[name])
        assert torch.isfinite(out).all() and out.std() > 0


@pytest.mark.parametrize("name", ["resnet18", "resnet34_small", "googlenet", "alexnet"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a = build_backbone(name, 4, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert _same(a, build_backbone(name, 4, seed=7))
    assert not _same(a, build_backbone(name, 4, seed=8))


def test_small_stem_sees_every_pixel() -> None:
    plain, small = build_backbone("resnet18", 3), build_backbone("resnet18_small", 3)
    assert plain.forward_features(torch.zeros(1, 3, 64, 64)).shape[-1] == 2
    assert small.forward_features(torch.zeros(1, 3, 64, 64)).shape[-1] == 8
    assert small.conv1.weight.shape == (64, 3, 3, 3)


def test_a_transformer_takes_any_size_and_loads_into_plain_timm(tmp_path: Path) -> None:
    model = build_backbone("vit_tiny_patch16_224", 5, seed=3).eval()
    assert model(torch.zeros(1, 5, 96, 64)).shape == (1, 192)
    file = save_backbone(model, tmp_path / "vit.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=5).eval()
    plain.load_state_dict(load_file(file), strict=True)
    x = torch.randn(2, 5, 224, 224)
    torch.testing.assert_close(plain(x), model(x), atol=1e-5, rtol=1e-5)


def test_features_are_timms_own() -> None:
    """VGG and MobileNetV3 widen after pooling: num_features must be what forward gives."""
    for name in ("mobilenetv3_small_050", "efficientnet_lite0", "convnext_atto"):
        model = build_backbone(name, 2, kwargs=OmegaConf.create({"drop_path_rate": 0.1})).eval()
        assert model(torch.zeros(2, 2, 64, 64)).shape == (2, model.num_features)


def test_save_and_load(tmp_path: Path) -> None:
    model = build_backbone("resnet18", 13, kwargs={"zero_init_last": False}, seed=5)
    model(torch.randn(4, 13, 32, 32))  # running statistics move away from their initial values
    model = model.to(memory_format=torch.channels_last)
    file = save_backbone(nn.DataParallel(model), tmp_path / "deep" / "w.safetensors", {"card": json.dumps({"b": 13})})
    assert [p.name for p in file.parent.iterdir()] == ["w.safetensors"]

    loaded, metadata = read_backbone(file)
    assert _same(model, loaded) and loaded.num_features == 512
    assert json.loads(metadata["card"]) == {"b": 13}
    timm.create_model("resnet18", num_classes=0, in_chans=13).load_state_dict(load_file(file), strict=True)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_backbone(build_backbone("alexnet", 3, seed=1), tmp_path / "w.safetensors")
    old = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_backbone(build_backbone("alexnet", 3, seed=2), file)
    assert file.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    file = save_backbone(build_backbone("alexnet", 3), tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.safetensors cannot be read"):
        read_backbone(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"No weights file at .*none\.safetensors"):
        read_backbone(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not saved by rsssl"):
        read_backbone(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, r"No backbone is called 'resnet81'. Did you mean .*resnet18.*Type backbone.name="),
        ({"name": "zzzqqq"}, r"No backbone is called 'zzzqqq'. Type backbone.name="),
        ({"name": "convnext_atto_small"}, r"convnext_atto is no ResNet. Type backbone.name=convnext_atto"),
        (
            {"name": "resnet18", "kwargs": {"drop_pth_rate": 0.1}},
            r"backbone.kwargs cannot take drop_pth_rate: did you mean drop_path_rate",
        ),
        ({"name": "alexnet", "kwargs": {"a": 1}}, r"alexnet takes no arguments .*\['a'\]"),
    ],
)
def test_what_cannot_be_built_says_what_to_type(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(in_chans=3, **arguments)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_checkpointing_has_the_same_gradient_and_keeps_less(name: str) -> None:
    x, kept, gradients = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(0)), [], []
    for checkpointing in (False, True):
        model, held = build_backbone(name, 4, checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, h=held: (h.append(t.numel()), t)[1], lambda t: t):
            loss = model(x).square().mean()
        kept.append(sum(held))
        loss.backward()
        gradients.append({k: p.grad for k, p in model.named_parameters()})
    assert kept[1] < 0.6 * kept[0]
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def test_what_cannot_be_checkpointed_says_so() -> None:
    with pytest.raises(UserError, match=r"knows no checkpointing: type backbone\.checkpointing=false"):
        build_backbone("alexnet", 3, checkpointing=True)
